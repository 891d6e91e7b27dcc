"""Whole pictures of image to image and inpainting against diffusers' own pipelines: same weights, same seed,
a CPU generator; within 2/255 everywhere."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgediff
from tests import tiny

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("onnx")
pytestmark = pytest.mark.parity

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SIZE = {"height": 16, "width": 24}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}


def picture(seed: int = 0) -> Image.Image:
    """A picture with content at every scale."""
    rows, columns = np.mgrid[0:16, 0:24]
    base = np.stack([rows * 12, columns * 9, (rows + columns + 40 * seed) % 64 * 4], axis=-1)
    rough = np.random.RandomState(seed).randint(0, 60, base.shape)
    return Image.fromarray(np.clip(base + rough, 0, 255).astype(np.uint8))


def mask() -> Image.Image:
    """A blob off the middle with a hole, sides that are no multiple of a latent cell."""
    shape = np.zeros((16, 24), np.uint8)
    shape[3:13, 5:17] = 255
    shape[6:8, 9:12] = 0
    return Image.fromarray(shape)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Export a tiny pipeline once per class; returns (diffusers pipeline, edgediff pipeline)."""
    from edgediff.export.main import export_onnx

    made: dict[tuple[str, str], tuple[Any, edgediff.Pipeline]] = {}

    def get(kind: str, name: str, guidance_dims: int | None = None) -> tuple[Any, edgediff.Pipeline]:
        if (kind, name) not in made:
            class_name, options = SCHEDULERS[name]
            folder = tmp_path_factory.mktemp(name)
            scheduler = getattr(diffusers, class_name)(**BETAS, **options)
            reference = tiny.pipeline(folder / "torch", scheduler, guidance_dims, kind)
            export_onnx(str(folder / "torch"), str(folder / "bundle"), verify=False)
            made[kind, name] = (reference, edgediff.load(folder / "bundle", threads=1))
        return made[kind, name]

    yield get
    made.clear()
    gc.collect()


def difference(reference: Any, images: Any) -> float:
    expected, got = np.asarray(reference, np.float32), np.asarray(images, np.float32)
    assert got.shape == expected.shape
    assert got.std() > 0.01, "a flat picture would agree with anything"
    return float(np.abs(got - expected).max()) * 255


def generators(seed: Any) -> Any:
    if isinstance(seed, list):
        return [torch.Generator().manual_seed(s) for s in seed]
    return torch.Generator().manual_seed(seed)


def eta_of(name: str) -> dict[str, float]:
    """diffusers' pipelines hand TCD an eta of 0 unless told; its scheduler's default, and ours, is 0.3."""
    return {"eta": 0.3} if name == "tcd" else {}


@pytest.mark.parametrize("name", [n for n in SCHEDULERS if n != "lcm"])
@pytest.mark.parametrize(("strength", "seed"), [(0.8, 3), (0.55, [4, 5]), (1.0, 6), (0.2, 7)])
def test_image2image(exported: Any, name: str, strength: float, seed: Any) -> None:
    reference, pipe = exported("StableDiffusionImg2ImgPipeline", name)
    prompts = ["red circle", "a blue cat"] if isinstance(seed, list) else ["red circle"]
    images = [picture(i) for i in range(len(prompts))]
    options: dict[str, Any] = {
        "num_inference_steps": 7, "guidance_scale": 4.0, "strength": strength, "output_type": "np",
        **eta_of(name),
    }  # fmt: skip
    expected = reference(
        prompts, images, generator=generators(seed), negative_prompt=["dog"] * len(prompts), **options
    ).images
    got = pipe.image2image(prompts, images, seed=seed, negative_prompt="dog", **options)
    assert difference(expected, got.images) <= 2


def test_one_picture_for_a_batch(exported: Any) -> None:
    reference, pipe = exported("StableDiffusionImg2ImgPipeline", "ddim")
    options: dict[str, Any] = {"num_inference_steps": 5, "strength": 0.6, "output_type": "np", "eta": 0.5}
    for seed in (1, [1, 2, 3, 4]):
        expected = reference(
            ["red", "blue"], picture(), num_images_per_prompt=2, generator=generators(seed), **options
        ).images
        got = pipe.image2image(["red", "blue"], picture(), num_images_per_prompt=2, seed=seed, **options)
        assert difference(expected, got.images) <= 2


@pytest.mark.parametrize(("steps", "strength", "seed"), [(4, 0.5, 1), (4, 0.9, [2, 3]), (1, 0.3, 4)])
def test_lcm_lays_its_grid_out_for_the_strength(
    exported: Any, steps: int, strength: float, seed: Any
) -> None:
    reference, pipe = exported("LatentConsistencyModelImg2ImgPipeline", "lcm", 8)
    prompts = ["red circle", "white"]
    options: dict[str, Any] = {
        "num_inference_steps": steps, "guidance_scale": 5.0, "strength": strength, "output_type": "np",
    }  # fmt: skip
    images = [picture(), picture(1)]
    expected = reference(prompts, images, generator=generators(seed), **options).images
    got = pipe.image2image(prompts, images, seed=seed, **options).images
    assert difference(expected, got) <= 2


@pytest.mark.parametrize("kind", ["StableDiffusionInpaintPipeline", "StableDiffusionInpaintPipeline9"])
@pytest.mark.parametrize("name", ["ddim", "pndm", "euler_ancestral", "heun", "dpmpp", "dpmpp_sde", "unipc"])
@pytest.mark.parametrize(("strength", "seed"), [(1.0, 3), (0.6, [4, 5])])
def test_inpaint(exported: Any, kind: str, name: str, strength: float, seed: Any) -> None:
    reference, pipe = exported(kind, name)
    prompts = ["red circle", "a blue cat"] if isinstance(seed, list) else ["red circle"]
    options: dict[str, Any] = {
        "num_inference_steps": 6, "guidance_scale": 4.0, "strength": strength, "output_type": "np", **SIZE,
    }  # fmt: skip
    expected = reference(prompts, picture(), mask(), generator=generators(seed), **options).images
    got = pipe.inpaint(prompts, picture(), mask(), seed=seed, **options)
    assert difference(expected, got.images) <= 2


@pytest.mark.parametrize("blur", [0, 2])
def test_the_padded_region_and_its_overlay(exported: Any, blur: int) -> None:
    reference, pipe = exported("StableDiffusionInpaintPipeline", "ddim")
    whole = picture().resize((72, 48))
    shape = np.zeros((48, 72), np.uint8)
    shape[20:31, 30:44] = 255
    soft = reference.mask_processor.blur(Image.fromarray(shape), blur) if blur else Image.fromarray(shape)
    options: dict[str, Any] = {"num_inference_steps": 4, "strength": 0.8, "padding_mask_crop": 4, **SIZE}
    expected = reference("red", whole, soft, generator=generators(2), **options).images[0]
    got = pipe.inpaint("red", whole, Image.fromarray(shape), mask_blur=blur, seed=2, **options).images[0]
    assert got.size == (72, 48)
    assert difference(np.asarray(expected) / 255, np.asarray(got) / 255) <= 2
    kept = np.asarray(soft) == 0
    assert np.array_equal(np.asarray(got)[kept], np.asarray(whole)[kept])


def test_unmasked_pixels_stay_to_the_byte(exported: Any) -> None:
    reference, pipe = exported("StableDiffusionInpaintPipeline", "ddim")
    options: dict[str, Any] = {"num_inference_steps": 4, **SIZE}
    drawn = reference("red", picture(), mask(), generator=generators(2), **options).images[0]
    expected = reference.image_processor.apply_overlay(mask(), picture(), drawn)
    got = pipe.inpaint("red", picture(), mask(), keep_unmasked=True, seed=2, **options).images[0]
    assert difference(np.asarray(expected) / 255, np.asarray(got) / 255) <= 2
    kept = np.asarray(mask()) == 0
    assert np.array_equal(np.asarray(got)[kept], np.asarray(picture())[kept])


@pytest.mark.parametrize("name", ["pndm", "euler_ancestral", "heun", "dpmpp_sde", "unipc", "lcm", "tcd"])
@pytest.mark.parametrize("seed", [5, [1, 2]])
def test_text2image_by_more_samplers(exported: Any, name: str, seed: Any) -> None:
    reference, pipe = exported("StableDiffusionPipeline", name)
    prompts = ["red circle", "a blue cat"]
    options: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 3.0, "output_type": "np", **SIZE}
    options |= eta_of(name)
    expected = reference(prompts, generator=generators(seed), **options).images
    assert difference(expected, pipe(prompts, seed=seed, **options).images) <= 2


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip(exported: Any, tmp_path: Path, skip: int) -> None:
    from edgediff.export.main import export_onnx

    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False)
    reference = tiny.pipeline(tmp_path / "torch", scheduler, layers=4)
    # diffusers asks for text_model.final_layer_norm; transformers 5 has the norm on the model itself.
    norm = SimpleNamespace(final_layer_norm=reference.text_encoder.final_layer_norm)
    object.__setattr__(reference.text_encoder, "text_model", norm)
    export_onnx(str(tmp_path / "torch"), str(tmp_path / "bundle"), verify=False)
    pipe = edgediff.load(tmp_path / "bundle", threads=1)
    options: dict[str, Any] = {"num_inference_steps": 3, "clip_skip": skip, "output_type": "np", **SIZE}
    expected = reference("red circle", generator=generators(0), **options).images
    assert difference(expected, pipe("red circle", seed=0, **options).images) <= 2
    embeds = pipe.encode_prompt("red circle", clip_skip=skip)
    again = pipe(prompt_embeds=embeds, seed=0, **{**options, "clip_skip": None}).images
    assert np.array_equal(again, pipe("red circle", seed=0, **options).images)


def test_a_callback_changes_the_latents(exported: Any) -> None:
    reference, pipe = exported("StableDiffusionPipeline", "pndm")
    seen: dict[str, list[Any]] = {"theirs": [], "ours": []}

    def halve(who: str) -> Any:
        def callback(pipe: Any, i: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
            seen[who].append((i, float(t)))
            return {"latents": given["latents"] * 0.5} if i == 2 else {}

        return callback

    options: dict[str, Any] = {"num_inference_steps": 5, "output_type": "np", **SIZE}
    expected = reference(
        "cat", generator=generators(1), callback_on_step_end=halve("theirs"), **options
    ).images
    got = pipe("cat", seed=1, callback_on_step_end=halve("ours"), **options).images
    assert seen["ours"] == seen["theirs"]
    assert difference(expected, got) <= 2
