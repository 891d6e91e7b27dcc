"""SDXL with ControlNets, and changed as a text says, against diffusers' own pipelines: within 0.05/255."""

from __future__ import annotations

from typing import Any

import pytest

import edgediff
from tests.edgediff import steered

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("onnx")
pytestmark = pytest.mark.parity

BOUND = 0.05  # 1/255
SIZE = {"height": 72, "width": 88}  # no multiples of 64
EULER = ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1})


def made(folder: Any, reference: Any) -> Any:
    """Both pipelines of one checkpoint."""
    from edgediff.export.main import export_onnx

    export_onnx(str(folder / "torch"), str(folder / "bundle"), verify=False)
    return reference, edgediff.load(folder / "bundle", threads=1)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("control")
    scheduler = steered.scheduler(*EULER)
    return made(folder, steered.control(folder / "torch", scheduler, 1, "StableDiffusionXLPipeline"))


@pytest.fixture(scope="module")
def instructed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("instruct")
    return made(folder, steered.instruct(folder / "torch", steered.scheduler(*EULER), xl=True))


def pictures(first: int) -> list[Any]:
    return [steered.picture(first + i, SIZE["width"], SIZE["height"]) for i in range(2)]


@pytest.mark.parametrize(
    "options",
    [
        {"negative_prompt": "dog"},
        {"guidance_scale": 1.0, "control_guidance_end": 0.5},
        {"guess_mode": True},
        {"denoising_end": 0.6, "control_guidance_start": 0.2, "control_guidance_end": 0.7},
    ],
    ids=str,
)
def test_text2image(controlled: Any, options: dict[str, Any]) -> None:
    reference, pipe = controlled
    every: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 4.0, **options}
    told = {"negative_prompt": ["dog"] * 2} if "negative_prompt" in options else {}
    prompts = ["red circle", "a blue cat"]
    expected = reference(
        prompts, image=pictures(1), generator=steered.generators(3), output_type="np", **every | told
    ).images
    got = pipe(prompts, control_image=pictures(1), seed=3, output_type="np", **every).images
    assert steered.difference(expected, got) <= BOUND


@pytest.mark.parametrize("options", [{}, {"guess_mode": True}], ids=str)
def test_other_tasks(controlled: Any, options: dict[str, Any]) -> None:
    reference, pipe = controlled
    every: dict[str, Any] = {
        "num_inference_steps": 6, "guidance_scale": 4.0, "output_type": "np", "strength": 0.6,
        "controlnet_conditioning_scale": 0.8, **options,
    }  # fmt: skip
    theirs = diffusers.StableDiffusionXLControlNetImg2ImgPipeline(
        **reference.components, add_watermarker=False
    )
    theirs.set_progress_bar_config(disable=True)
    prompts = ["red circle", "a blue cat"]
    expected = theirs(
        prompts,
        image=pictures(0),
        control_image=pictures(5),
        generator=steered.generators(4),
        **SIZE,
        **every,
    ).images
    got = pipe.image2image(prompts, pictures(0), control_image=pictures(5), seed=4, **every).images
    assert steered.difference(expected, got) <= BOUND
    theirs = diffusers.StableDiffusionXLControlNetInpaintPipeline(
        **reference.components, add_watermarker=False
    )
    theirs.set_progress_bar_config(disable=True)
    mask, image, shown = steered.mask(SIZE["width"], SIZE["height"]), pictures(0)[0], pictures(5)[0]
    expected = theirs(
        "red",
        image=image,
        mask_image=mask,
        control_image=shown,
        generator=steered.generators(4),
        **SIZE,
        **every,
    ).images
    got = pipe.inpaint("red", image, mask, control_image=shown, seed=4, **SIZE, **every).images
    assert steered.difference(expected, got) <= BOUND


@pytest.mark.parametrize(
    "options",
    [{"negative_prompt": "dog"}, {"guidance_scale": 1.0}, {"guidance_rescale": 0.7}, {"denoising_end": 0.5}],
    ids=str,
)
def test_instruct(instructed: Any, options: dict[str, Any]) -> None:
    reference, pipe = instructed
    every: dict[str, Any] = {
        "num_inference_steps": 6, "guidance_scale": 4.0, "image_guidance_scale": 1.8, "output_type": "np",
        **options,
    }  # fmt: skip
    told = {"negative_prompt": ["dog"] * 2} if "negative_prompt" in options else {}
    prompts = ["red circle", "a blue cat"]
    expected = reference(
        prompts, image=pictures(1), generator=steered.generators(3), **SIZE, **every | told
    ).images
    got = pipe.instruct(prompts, pictures(1), seed=3, **every).images
    assert steered.difference(expected, got) <= BOUND
