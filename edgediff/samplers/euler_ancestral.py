"""Euler with ancestral noise: DDPM's posterior (Ho et al., 2020, eq. 6 and 7) with x = clean + sigma * noise.

A step goes further down than its target, along the ordinary differential equation, and noise brings it back
up to the target.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import euler
from edgediff.samplers._levels import refuse
from edgediff.schedule import Config, Point, Request, Schedule

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "prediction_type": "epsilon", "timestep_spacing": "linspace", "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}  # fmt: skip
SUPPORTED = {"prediction_type": ("epsilon", "v_prediction")}


def schedule(config: Config, request: Request) -> Schedule:
    """Euler's schedule, without its options."""
    refuse(request, "timesteps", "sigmas")
    return euler.schedule({**euler.DEFAULTS, **config}, request)


def split(here: Point, there: Point) -> tuple[float, float]:
    """Return how far down to go and how much noise to add: down^2 + up^2 = there.sigma^2."""
    down = there.sigma**2 / here.sigma
    return down, (there.sigma**2 - down**2) ** 0.5


def sampler(config: Config) -> Sampler:
    """Return the ancestral Euler sampler; it draws once per hop, at the last one for nothing."""
    del config

    def euler_ancestral(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here)
            down, up = split(here, there)
            ratio = down / here.sigma
            x = ratio * x + (1 - ratio) * clean + up * noise.draw(x.shape)
            yield Step(i, x, clean)

    return euler_ancestral
