"""What the parity tests of SDXL share: exported pipelines beside diffusers' own, and how pictures compare."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import edgediff
from tests import tiny_xl
from tests.facts import FACTS

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = {
    **BETAS, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}  # fmt: skip
SIZE = {"height": 72, "width": 88}  # no multiples of 64; latents of 9 x 11
LEADING = {**BETAS, "timestep_spacing": "leading", "steps_offset": 1}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", LEADING),
    "ddim": ("DDIMScheduler", {**LEADING, "clip_sample": False, "set_alpha_to_one": False}),
    "dpmpp": ("DPMSolverMultistepScheduler", {**BETAS, "use_karras_sigmas": True}),
    "turbo": ("EulerAncestralDiscreteScheduler", {**BETAS, "timestep_spacing": "trailing"}),
    "lcm": ("LCMScheduler", BETAS),
    "euler-v": ("EulerDiscreteScheduler", ZERO_SNR),
    "ancestral-v": ("EulerAncestralDiscreteScheduler", ZERO_SNR),
    "ddim-v": ("DDIMScheduler", {**ZERO_SNR, "clip_sample": False}),
}

Pair = tuple[Any, edgediff.Pipeline]


WORST: list[float] = []
"""Differences since the last pipelines were let go."""


def exporter(folder: Callable[[str], Path], what: str) -> Iterator[Callable[..., Pair]]:
    """Yield what gives a diffusers pipeline and our own of its export, made once for each kind.

    At the end the largest difference that was found is noted under ``what``.
    """
    import diffusers

    from edgediff.export.main import export_onnx

    made: dict[Any, Pair] = {}

    def get(name: str = "euler", kind: str = "StableDiffusionXLPipeline", **facts: Any) -> Pair:
        key = (name, kind, *sorted(facts.items()))
        if key not in made:
            class_name, options = SCHEDULERS[name]
            place = folder(name)
            scheduler = getattr(diffusers, class_name)(**options)
            reference = facts.pop("of", tiny_xl.pipeline)(place / "torch", scheduler, kind, **facts)
            export_onnx(str(place / "torch"), str(place / "bundle"), verify=False)
            made[key] = (reference, edgediff.load(place / "bundle", threads=1))
        return made[key]

    WORST.clear()
    yield get
    if WORST:
        FACTS.append(f"{what}: {len(WORST)} comparisons, largest difference {max(WORST):.4f}/255")
    for _, pipe in made.values():
        pipe.close()
    made.clear()
    gc.collect()


def difference(reference: Any, images: Any) -> float:
    """The largest difference in units of 1/255."""
    expected, got = np.asarray(reference, np.float32), np.asarray(images, np.float32)
    assert got.shape == expected.shape
    assert got.std() > 0.01, "a flat picture would agree with anything"
    WORST.append(float(np.abs(got - expected).max()) * 255)
    return WORST[-1]


def generators(seed: Any) -> Any:
    """One CPU generator, or one for each seed of a list."""
    import torch

    if isinstance(seed, list):
        return [torch.Generator().manual_seed(s) for s in seed]
    return torch.Generator().manual_seed(seed)


def picture(seed: int = 0, height: int = 72, width: int = 88) -> Image.Image:
    """A picture with content at every scale."""
    rows, columns = np.mgrid[0:height, 0:width]
    base = np.stack([rows * 3, columns * 2, (rows + columns + 40 * seed) % 64 * 4], axis=-1)
    rough = np.random.RandomState(seed).randint(0, 60, base.shape)
    return Image.fromarray(np.clip(base + rough, 0, 255).astype(np.uint8))


def mask(height: int = 72, width: int = 88) -> Image.Image:
    """A blob off the middle, sides that are no multiple of a latent cell."""
    shape = np.zeros((height, width), np.uint8)
    shape[13:53, 21:67] = 255
    shape[26:30, 40:60] = 0
    return Image.fromarray(shape)
