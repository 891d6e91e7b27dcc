"""Whole pictures against diffusers' own pipelines: same weights, same seed, a CPU generator; within 2/255
everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from tests import tiny

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("onnx")
pytestmark = pytest.mark.parity

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = {
    **BETAS,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def schedulers() -> dict[str, Any]:
    d = diffusers
    return {
        "ddim": d.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        "ddim-v-zero-snr": d.DDIMScheduler(**ZERO_SNR, clip_sample=False),
        "euler": d.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        "euler-karras": d.EulerDiscreteScheduler(**BETAS, use_karras_sigmas=True),
        "dpmpp-karras": d.DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True),
        "dpmpp-v": d.DPMSolverMultistepScheduler(**BETAS, prediction_type="v_prediction"),
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Export a tiny pipeline once per scheduler; returns (diffusers pipeline, edgediff pipeline)."""
    from edgediff.export.main import export_onnx

    made: dict[str, tuple[Any, edgediff.Pipeline]] = {}

    def get(name: str, guidance_dims: int | None = None) -> tuple[Any, edgediff.Pipeline]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            scheduler = diffusers.LCMScheduler(**BETAS) if name == "lcm" else schedulers()[name]
            reference = tiny.pipeline(folder / "torch", scheduler, guidance_dims)
            export_onnx(str(folder / "torch"), str(folder / "bundle"))
            made[name] = (reference, edgediff.load(folder / "bundle", threads=1))
        return made[name]

    return get


def difference(reference: Any, images: np.ndarray) -> float:
    assert images.shape == reference.shape
    assert images.std() > 0.01, "a flat picture would agree with anything"
    return float(np.abs(images - reference).max()) * 255


def generators(seed: Any) -> Any:
    if isinstance(seed, list):
        return [torch.Generator().manual_seed(s) for s in seed]
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", list(schedulers()))
@pytest.mark.parametrize(
    ("prompts", "seed"),
    [(["red circle"], 5), (["red circle", "a blue cat"], 5), (["red", "blue"], [1, 2**32 - 1])],
)
def test_guided_pictures(exported: Any, name: str, prompts: list[str], seed: Any) -> None:
    reference, pipe = exported(name)
    expected = reference(
        prompts, negative_prompt=["square"] * len(prompts), num_inference_steps=6, guidance_scale=5.0,
        generator=generators(seed), height=16, width=24, output_type="np",
    ).images  # fmt: skip
    got = pipe(
        prompts, negative_prompt="square", num_inference_steps=6, guidance_scale=5.0, seed=seed, height=16,
        width=24,
        output_type="np",
    )  # fmt: skip
    assert got.seed == (tuple(seed) if isinstance(seed, list) else seed)
    assert difference(expected, got.images) <= 2


@pytest.mark.parametrize(("scale", "rescale", "per_prompt"), [(1.0, 0.0, 1), (7.5, 0.7, 1), (3.0, 0.0, 2)])
def test_guidance_and_its_rescale(exported: Any, scale: float, rescale: float, per_prompt: int) -> None:
    reference, pipe = exported("ddim-v-zero-snr")
    options: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": scale, "guidance_rescale": rescale}
    options |= {"num_images_per_prompt": per_prompt, "height": 16, "width": 16, "output_type": "np"}
    expected = reference(["red cat", "blue"], generator=generators(9), **options).images
    assert difference(expected, pipe(["red cat", "blue"], seed=9, **options).images) <= 2


def test_eta_draws_in_diffusers_order(exported: Any) -> None:
    reference, pipe = exported("ddim")
    options: dict[str, Any] = {
        "num_inference_steps": 5,
        "guidance_scale": 3.0,
        "eta": 0.8,
        "output_type": "np",
    }
    expected = reference("red cat", generator=generators(2), height=16, width=16, **options).images
    assert difference(expected, pipe("red cat", seed=2, height=16, width=16, **options).images) <= 2


def test_latents_in_and_out(exported: Any) -> None:
    reference, pipe = exported("euler")
    latents = np.random.RandomState(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "latent"}
    expected = reference("cat", latents=torch.from_numpy(latents), **options).images.numpy()
    got = pipe("cat", latents=latents, **options).images
    assert np.abs(got - expected).max() / np.abs(expected).max() < 1e-4
    assert np.array_equal(
        pipe.decode(got, "np"), pipe("cat", latents=latents, **{**options, "output_type": "np"}).images
    )


@pytest.mark.parametrize(("steps", "seed"), [(1, 0), (4, 3), (4, [3, 4]), (8, 1)])
def test_lcm_with_a_guidance_embedding(exported: Any, steps: int, seed: Any) -> None:
    reference, pipe = exported("lcm", 8)
    prompts = ["red circle", "white square"]
    options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": 6.0, "output_type": "np"}
    expected = reference(prompts, generator=generators(seed), height=16, width=16, **options).images
    assert difference(expected, pipe(prompts, seed=seed, height=16, width=16, **options).images) <= 2


def test_custom_timesteps(exported: Any) -> None:
    reference, pipe = exported("lcm", 8)
    options: dict[str, Any] = {"timesteps": [999, 499, 99], "guidance_scale": 2.0, "output_type": "np"}
    expected = reference("cat", generator=generators(1), height=16, width=16, **options).images
    assert difference(expected, pipe("cat", seed=1, height=16, width=16, **options).images) <= 2


def test_the_same_pictures_as_pil_and_by_stream(exported: Any) -> None:
    _, pipe = exported("lcm", 8)
    whole = pipe("cat", seed=4, num_inference_steps=3, height=16, width=16)
    for step in pipe.stream("cat", seed=4, num_inference_steps=3, height=16, width=16):
        last = step
    assert last.i == 2
    assert np.array_equal(np.asarray(whole.images[0]), np.asarray(pipe.decode(last.x)[0]))
    assert whole[0] is whole.images
    assert {"denoiser", "decoder", "total"} <= set(whole.timings)
    fresh = pipe("a cat that was never drawn", num_inference_steps=1, height=16, width=16)
    assert "text_encoder" in fresh.timings


def test_half_stored_weights_give_nearly_the_same_picture(exported: Any, tmp_path: Path) -> None:
    from edgediff.export.main import export_onnx

    _, pipe = exported("ddim")
    source = pipe.bundle.path.parent / "torch"
    export_onnx(str(source), str(tmp_path / "half"), dtype="fp16")
    half = edgediff.load(tmp_path / "half", threads=1)
    options: dict[str, Any] = {
        "seed": 1,
        "num_inference_steps": 4,
        "height": 16,
        "width": 16,
        "output_type": "np",
    }
    assert np.abs(half("cat", **options).images - pipe("cat", **options).images).max() < 0.02
