"""Improved PNDM: Zhang and Chen (2022, arXiv:2204.13902).

PNDM's weights without its start: the order grows with the number of outputs that are known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edgediff import denoise as wrap
from edgediff.denoise import Conversion
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers._levels import refuse
from edgediff.samplers.pndm import combined
from edgediff.schedule import Config, Point, Request, Schedule, chained

DEFAULTS = {"num_train_timesteps": 1000, "trained_betas": None}
SUPPORTED = {"trained_betas": (None,)}


def schedule(config: Config, request: Request) -> Schedule:
    """Levels from pure noise to clean, sigma = sin(pi t / 2)^2; the network is told their angle, 1 to 0."""
    refuse(request, "timesteps", "sigmas")
    points = []
    for time in np.linspace(1, 0, request.steps + 1):
        sigma = math.sin(float(time) * math.pi / 2) ** 2
        alpha = math.sqrt(1 - sigma**2)
        points.append(Point(math.atan2(sigma, alpha) / math.pi * 2, alpha, sigma))
    return Schedule(1.0, chained(points))


def conversion(config: Config) -> Conversion:
    """Networks predict v; the class has no option for it."""
    del config
    return wrap.conversion("v_prediction")


def sampler(config: Config) -> Sampler:
    """Return the improved PNDM sampler; it draws no noise."""
    del config

    def ipndm(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        past: list[Array] = []
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here)
            past = [(1 / here.sigma) * x - (here.alpha / here.sigma) * clean, *past[:3]]
            # In pure noise the sample is its own noise, so nothing is left for the clean share (in diffusers
            # too, so that what the network says there is never used).
            ratio = there.alpha / here.alpha if here.alpha > 0 else 0.0
            x = ratio * x + (there.sigma - ratio * here.sigma) * combined(past)
            yield Step(i, x, clean)

    return ipndm
