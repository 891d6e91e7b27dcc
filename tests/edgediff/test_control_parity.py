"""ControlNet pipelines against diffusers' own, text to image, image to image and inpainting: same weights,
same seed; within 0.02/255, since small networks with random weights answer to little with much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edgediff
from tests.edgediff import steered

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("onnx")
pytestmark = pytest.mark.parity

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
NAMES = ("ddim", "pndm", "heun")
SIZE = {"height": 16, "width": 24}
BOUND = 0.02  # 1/255
Pipes = Callable[..., tuple[Any, edgediff.Pipeline]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Export a tiny pipeline once per kind; returns (diffusers pipeline, edgediff pipeline)."""
    from edgediff.export.main import export_onnx

    made: dict[tuple[str, int, str], tuple[Any, edgediff.Pipeline]] = {}

    def get(name: str, nets: int = 1, kind: str = "StableDiffusionPipeline") -> tuple[Any, edgediff.Pipeline]:
        key = (name, nets, kind)
        if key not in made:
            folder = tmp_path_factory.mktemp(name)
            reference = steered.control(folder / "torch", steered.scheduler(*SCHEDULERS[name]), nets, kind)
            export_onnx(str(folder / "torch"), str(folder / "bundle"), verify=False)
            made[key] = (reference, edgediff.load(folder / "bundle", threads=1))
        return made[key]

    return get


OPTIONS: list[dict[str, Any]] = [
    {},
    {"guidance_scale": 1.0},
    {"controlnet_conditioning_scale": 0.4, "negative_prompt": "dog"},
    {"control_guidance_start": 0.3, "control_guidance_end": 0.7},
    {"control_guidance_end": 0.5, "guidance_scale": 1.0},
    {"guess_mode": True},
    {"guess_mode": True, "guidance_scale": 1.0, "control_guidance_start": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_text2image(exported: Pipes, name: str, options: dict[str, Any]) -> None:
    reference, pipe = exported(name)
    prompts = ["red circle", "a blue cat"]
    images = [steered.picture(1), steered.picture(2)]
    every: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 4.0, "output_type": "np"} | options
    told = {"negative_prompt": ["dog"] * 2} if "negative_prompt" in options else {}
    expected = reference(prompts, images, generator=steered.generators(3), **every | told).images
    got = pipe(prompts, control_image=images, seed=3, **every).images
    assert steered.difference(expected, got) <= BOUND
    plain = pipe(
        prompts,
        seed=3,
        **SIZE,
        **{k: v for k, v in every.items() if "control" not in k and k != "guess_mode"},
    )
    assert steered.difference(plain.images, got) > 10 * BOUND, "the control picture changed nothing"


@pytest.mark.parametrize("options", [{}, {"guess_mode": True, "control_guidance_end": 0.5}], ids=str)
def test_guidance_as_an_embedding(exported: Pipes, options: dict[str, Any]) -> None:
    reference, pipe = exported("lcm", kind="LatentConsistencyModelPipeline")
    every: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np"} | options
    prompts, shown = ["red circle", "a blue cat"], steered.picture(1)
    expected = reference(prompts, shown, generator=steered.generators(3), **every).images
    got = pipe(prompts, control_image=shown, seed=3, **every).images
    assert steered.difference(expected, got) <= BOUND


def test_one_control_picture_for_many_results(exported: Pipes) -> None:
    reference, pipe = exported("ddim")
    options: dict[str, Any] = {"num_inference_steps": 4, "num_images_per_prompt": 2, "output_type": "np"}
    for images in (steered.picture(1), [steered.picture(1), steered.picture(2)]):
        expected = reference(
            ["red", "blue"], images, generator=steered.generators([1, 2, 3, 4]), **options
        ).images
        got = pipe(["red", "blue"], control_image=images, seed=[1, 2, 3, 4], **options).images
        assert steered.difference(expected, got) <= BOUND


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"controlnet_conditioning_scale": [0.5, 1.5], "control_guidance_start": [0.0, 0.4]},
        {"control_guidance_end": [0.3, 0.6], "controlnet_conditioning_scale": 0.7, "guidance_scale": 1.0},
        {"guess_mode": True, "control_guidance_start": [0.2, 0.0], "control_guidance_end": [0.5, 1.0]},
    ],
    ids=str,
)
def test_two_networks(exported: Pipes, options: dict[str, Any]) -> None:
    reference, pipe = exported("ddim", 2)
    every: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 4.0, "output_type": "np"} | options
    images = [steered.picture(1), steered.picture(2)]
    expected = reference("red", images, generator=steered.generators(3), **every).images
    got = pipe("red", control_image=images, seed=3, **every).images
    assert steered.difference(expected, got) <= BOUND
    nested = [images, images[::-1]]
    expected = reference(["red", "blue"], nested, generator=steered.generators(3), **every).images
    got = pipe(["red", "blue"], control_image=nested, seed=3, **every).images
    assert steered.difference(expected, got) <= BOUND


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [{}, {"control_guidance_start": 0.2, "control_guidance_end": 0.8}, {"guess_mode": True}],
    ids=str,
)
@pytest.mark.parametrize(("strength", "seed"), [(0.6, 3), (1.0, [4, 5])])
def test_image2image(exported: Pipes, name: str, options: dict[str, Any], strength: float, seed: Any) -> None:
    reference, pipe = exported(name)
    theirs = again(diffusers.StableDiffusionControlNetImg2ImgPipeline, reference)
    prompts = ["red circle", "a blue cat"] if isinstance(seed, list) else ["red circle"]
    images = [steered.picture(i) for i in range(len(prompts))]
    controls = [steered.picture(5 + i) for i in range(len(prompts))]
    every: dict[str, Any] = {
        "num_inference_steps": 7, "guidance_scale": 4.0, "strength": strength, "output_type": "np",
        "controlnet_conditioning_scale": 0.8, **options,
    }  # fmt: skip
    expected = theirs(prompts, images, controls, generator=steered.generators(seed), **SIZE, **every).images
    got = pipe.image2image(prompts, images, control_image=controls, seed=seed, **every).images
    assert steered.difference(expected, got) <= BOUND


@pytest.mark.parametrize("kind", ["StableDiffusionInpaintPipeline", "StableDiffusionInpaintPipeline9"])
@pytest.mark.parametrize(("strength", "seed"), [(1.0, 3), (0.6, [4, 5])])
@pytest.mark.parametrize("options", [{}, {"guess_mode": True, "control_guidance_end": 0.8}], ids=str)
def test_inpaint(exported: Pipes, kind: str, options: dict[str, Any], strength: float, seed: Any) -> None:
    reference, pipe = exported("ddim", kind=kind)
    theirs = again(diffusers.StableDiffusionControlNetInpaintPipeline, reference)
    prompts = ["red circle", "a blue cat"] if isinstance(seed, list) else ["red circle"]
    every: dict[str, Any] = {
        "num_inference_steps": 6, "guidance_scale": 4.0, "strength": strength, "output_type": "np", **SIZE,
        "controlnet_conditioning_scale": 0.8, **options,
    }  # fmt: skip
    generator = steered.generators(seed)
    images = [steered.picture(i) for i in range(len(prompts))]
    shown = [steered.picture(5 + i) for i in range(len(prompts))]
    masks = [steered.mask(), steered.mask().rotate(180)][: len(prompts)]
    expected = theirs(prompts, images, masks, shown, generator=generator, **every).images
    got = pipe.inpaint(prompts, images, masks, control_image=shown, seed=seed, **every)
    assert steered.difference(expected, got.images) <= BOUND


def test_the_padded_region_is_cut_from_the_control_picture_too(exported: Pipes) -> None:
    reference, pipe = exported("ddim")
    theirs = again(diffusers.StableDiffusionControlNetInpaintPipeline, reference)
    whole, shown = steered.picture(0, 72, 48), steered.picture(5, 72, 48)
    mask = steered.mask(72, 48)
    options: dict[str, Any] = {
        "num_inference_steps": 4, "strength": 0.8, "padding_mask_crop": 4, "guidance_scale": 4.0, **SIZE,
    }  # fmt: skip
    expected = theirs(
        "red",
        whole,
        mask,
        shown,
        generator=steered.generators(2),
        controlnet_conditioning_scale=1.0,
        **options,
    ).images[0]
    got = pipe.inpaint("red", whole, mask, control_image=shown, seed=2, **options).images[0]
    assert got.size == (72, 48)
    assert steered.difference(np.asarray(expected) / 255, np.asarray(got) / 255) <= 1  # both are rounded


def again(class_: Any, pipe: Any) -> Any:
    """Another task's pipeline of the same parts."""
    parts = {**pipe.components, "safety_checker": None, "feature_extractor": None}
    made = class_(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made
