"""Multistep consistency sampling on flow matching's paths: Song et al. (2023, arXiv:2303.01469), algorithm
1."""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.errors import BundleError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import _flow_levels
from edgediff.schedule import Config, Schedule

DEFAULTS = {**_flow_levels.DEFAULTS, "scale_factors": None, "upscale_mode": "bicubic"}
SUPPORTED: dict[str, tuple[object, ...]] = {
    "prediction_type": ("flow_prediction",),
    "scale_factors": (None, []),
}
schedule = _flow_levels.schedule


def sampler(config: Config) -> Sampler:
    """Return the sampler: predict, then noise again to the next level; one draw per hop, the last included.

    Raises:
        BundleError: the configuration inverts its sigmas. diffusers then takes the noise for the picture and
            ends on a fresh draw, so there is nothing to reproduce.
    """
    if config["invert_sigmas"]:
        raise BundleError(
            "scheduler config: invert_sigmas cannot be combined with noising again (stochastic_sampling, "
            "FlowMatchLCMScheduler); keep one."
        )
    return renoising


def renoising(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
    """Go to the clean prediction and from there to the next point with new noise (at the last, 0 of it)."""
    for i, (here, there) in enumerate(schedule.hops):
        clean = denoise(x, here)
        x = there.alpha * clean + there.sigma * noise.draw(x.shape)
        yield Step(i, x, clean)
