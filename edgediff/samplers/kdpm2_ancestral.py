"""DPM-Solver-2 with ancestral noise.

A step goes further down than its target, by the midpoint rule of :mod:`edgediff.samplers.kdpm2`, and noise
brings it back up, as in :mod:`edgediff.samplers.euler_ancestral`.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import kdpm2
from edgediff.samplers.euler_ancestral import split
from edgediff.schedule import Config, Schedule

DEFAULTS = kdpm2.DEFAULTS
SUPPORTED = kdpm2.SUPPORTED
schedule = kdpm2.schedule


def sampler(config: Config) -> Sampler:
    """Return the ancestral midpoint sampler; it draws once per hop but the last."""
    table = kdpm2.table_of(config)

    def kdpm2_ancestral(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            down, up = split(here, there)
            x, clean = kdpm2.midpoint(denoise, x, here, down, table)
            if there.sigma > 0:
                x = x + up * noise.draw(x.shape)
            yield Step(i, x, clean)

    return kdpm2_ancestral
