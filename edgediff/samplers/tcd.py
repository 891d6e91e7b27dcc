"""Trajectory consistency distillation: Zheng et al. (2024, arXiv:2402.19159), strategic stochastic sampling.

A step goes further down than its target, to (1 - eta) of its timestep (the paper's gamma), and noise brings
it back up. Like diffusers, this sampler neither clips nor thresholds, whatever the configuration says.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgediff.errors import BundleError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import lcm
from edgediff.samplers._levels import points, refuse
from edgediff.schedule import Config, Request, Schedule, chained

DEFAULTS = {**lcm.DEFAULTS, "eta": 0.3}
SUPPORTED = lcm.SUPPORTED


def schedule(config: Config, request: Request) -> Schedule:
    """Timesteps are LCM's; the last hop ends at timestep 0, which is not quite clean."""
    refuse(request, "sigmas")
    return Schedule(1.0, chained([*map(points(config), (*lcm.timesteps(config, request), 0.0))]))


def sampler(config: Config) -> Sampler:
    """Return TCD sampling; one draw per hop but the last, none with ``eta`` 0."""
    eta = float(config["eta"])
    if not 0 <= eta <= 1:
        raise BundleError(f"scheduler config: eta is {eta:g}; it must be between 0 and 1.")
    point = points(config)

    def tcd(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here)
            # In float32, where diffusers computes it: one bit decides what is rounded down.
            below = point(float(np.floor(np.float32(1 - eta) * np.float32(there.t))))
            ratio = below.sigma / here.sigma
            x = ratio * x + (below.alpha - ratio * here.alpha) * clean
            if eta > 0 and schedule.skipped + i < schedule.total - 1:
                ratio = there.alpha / below.alpha
                x = ratio * x + max(1 - ratio**2, 0.0) ** 0.5 * noise.draw(x.shape)
            yield Step(i, x, clean)

    return tcd
