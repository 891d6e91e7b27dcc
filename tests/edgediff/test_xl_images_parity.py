"""SDXL from pictures, and handed over to a refiner, against diffusers' own pipelines: within 2/255."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgediff.errors import InputError
from tests.edgediff.xl_pictures import SIZE, difference, exporter, generators, mask, picture

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("onnx")
pytestmark = pytest.mark.parity

OPTIONS: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 5.0, "output_type": "np"}
IMAGE2IMAGE, INPAINT = "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    yield from exporter(tmp_path_factory.mktemp, "SDXL from pictures and refined")


@pytest.mark.parametrize("name", ["euler", "ddim", "dpmpp"])
@pytest.mark.parametrize(("strength", "seed"), [(0.5, 3), (0.8, [4, 5]), (1.0, 6)])
def test_image2image(exported: Any, name: str, strength: float, seed: Any) -> None:
    reference, pipe = exported(name, IMAGE2IMAGE)
    prompts = ["red circle", "a blue cat"] if isinstance(seed, list) else ["red circle"]
    images = [picture(i) for i in range(len(prompts))]
    options = {**OPTIONS, "strength": strength, "negative_prompt": ["dog"] * len(prompts)}
    expected = reference(prompts, image=images, generator=generators(seed), **options).images
    assert difference(expected, pipe.image2image(prompts, images, seed=seed, **options).images) <= 2


def test_image2image_with_sizes_and_a_distilled_model(exported: Any) -> None:
    reference, pipe = exported("lcm", IMAGE2IMAGE, guidance_dims=8)
    options = {
        **OPTIONS, "strength": 0.6, "original_size": (512, 300), "crops_coords_top_left": (10, 20),
        "target_size": (90, 80), "guidance_scale": 6.0,
    }  # fmt: skip
    expected = reference("red circle", image=picture(), generator=generators(1), **options).images
    assert difference(expected, pipe.image2image("red circle", picture(), seed=1, **options).images) <= 2


@pytest.mark.parametrize("kind", [INPAINT, f"{INPAINT}9"])
@pytest.mark.parametrize("name", ["euler", "turbo"])
@pytest.mark.parametrize(("strength", "seed"), [(1.0, 3), (0.6, [4, 5])])
def test_inpaint(exported: Any, kind: str, name: str, strength: float, seed: Any) -> None:
    reference, pipe = exported(name, kind)
    prompts = ["red circle", "a blue cat"] if isinstance(seed, list) else ["red circle"]
    options = {**OPTIONS, "strength": strength, "negative_prompt": ["dog"] * len(prompts)}
    expected = reference(
        prompts, image=picture(), mask_image=mask(), generator=generators(seed), **SIZE, **options
    ).images
    got = pipe.inpaint(prompts, picture(), mask(), seed=seed, **options).images
    assert difference(expected, got) <= 2


@pytest.mark.parametrize("options", [{}, {"aesthetic_score": 9.0, "negative_aesthetic_score": 1.0}])
def test_the_refiner_alone(exported: Any, options: dict[str, Any]) -> None:
    reference, pipe = exported("euler", refiner=True)
    assert "text2image" not in pipe.bundle.tasks
    options = {**OPTIONS, "strength": 0.5, "negative_prompt": "dog", **options}
    expected = reference("red circle", image=picture(), generator=generators(1), **options).images
    got = pipe.image2image("red circle", picture(), seed=1, **options).images
    assert difference(expected, got) <= 2
    other = pipe.image2image("red circle", picture(), seed=1, **{**options, "aesthetic_score": 2.0}).images
    assert np.abs(got - other).max() * 255 > 2, "it would agree without the score"
    with pytest.raises(InputError, match="this model"):
        pipe("red circle")


@pytest.mark.parametrize("name", ["euler", "ddim", "dpmpp", "turbo"])
@pytest.mark.parametrize(("share", "per_prompt"), [(0.6, 1), (0.5, 2)])
def test_the_base_hands_over_to_the_refiner(exported: Any, name: str, share: float, per_prompt: int) -> None:
    base, ours = exported(name)
    refiner, our_refiner = exported(name, refiner=True, seed=7)
    prompts = ["red circle", "a cat"]
    options = {**OPTIONS, "num_images_per_prompt": per_prompt}
    first = {**options, "output_type": "latent", "denoising_end": share}
    half = base(prompts, generator=generators(1), **SIZE, **first).images
    our_half = ours(prompts, seed=1, **SIZE, **first).images
    assert np.abs(our_half - half.numpy()).max() < 1e-3 * np.abs(our_half).max()
    # diffusers repeats latents prompt by prompt only if there are as many as results.
    expected = refiner(prompts, image=half, generator=generators(2), denoising_start=share, **options).images
    asked = {"seed": 2, "denoising_start": share, **options}
    got = our_refiner.image2image(prompts, image=our_half, **asked).images
    assert difference(expected, got) <= 2
    assert np.array_equal(our_refiner.image2image(prompts, latents=our_half, **asked).images, got)
    unrefined = ours.decode(our_half, "np")
    assert np.abs(unrefined - got).max() * 255 > 2, "the refiner does nothing"


def test_a_picture_may_stand_part_way(exported: Any) -> None:
    reference, pipe = exported("euler", IMAGE2IMAGE)
    options = {**OPTIONS, "denoising_start": 0.6, "denoising_end": 0.9}
    expected = reference("red circle", image=picture(), generator=generators(1), **options).images
    assert difference(expected, pipe.image2image("red circle", picture(), seed=1, **options).images) <= 2


def test_latents_as_the_picture_to_start_from(exported: Any) -> None:
    reference, pipe = exported("euler", IMAGE2IMAGE)
    latents = pipe.encode(np.random.RandomState(0).uniform(-1, 1, (1, 3, 72, 88)).astype(np.float32))
    options = {**OPTIONS, "strength": 0.5}
    expected = reference("red", image=torch.from_numpy(latents), generator=generators(1), **options).images
    assert difference(expected, pipe.image2image("red", latents, seed=1, **options).images) <= 2
    with pytest.raises(InputError, match="height: 64 was asked for; latents of 72 were given"):
        pipe.image2image("red", latents, height=64)
    with pytest.raises(InputError, match="latents and denoising_start"):
        pipe.image2image("red", latents=latents)
    with pytest.raises(InputError, match="latents of 3 results were given for 1"):
        pipe.image2image("red", np.repeat(latents, 3, axis=0))


@pytest.mark.parametrize("kind", [INPAINT, f"{INPAINT}9"])
def test_inpainting_part_way(exported: Any, kind: str) -> None:
    reference, pipe = exported("euler", kind)
    options = {**OPTIONS, "denoising_start": 0.4, "strength": 0.99}
    expected = reference(
        "red", image=picture(), mask_image=mask(), generator=generators(1), **SIZE, **options
    ).images
    assert difference(expected, pipe.inpaint("red", picture(), mask(), seed=1, **options).images) <= 2
