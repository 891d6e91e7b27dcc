"""Heun for flow matching: Karras et al. (2022, arXiv:2206.00364), algorithm 1 without churn, on the paths of
flow_euler."""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.errors import InputError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import _flow_levels
from edgediff.schedule import Config, Request, Schedule

DEFAULTS = {"num_train_timesteps": 1000, "shift": 1.0, "prediction_type": "flow_prediction"}
SUPPORTED = {"prediction_type": ("flow_prediction",)}


def schedule(config: Config, request: Request) -> Schedule:
    """One hop per step, so n steps are 2 n - 1 network calls; the levels are those of flow_euler."""
    if request.timesteps is not None or request.sigmas is not None:
        raise InputError(
            "timesteps, sigmas: this sampler takes a number of steps only; flow_euler takes both."
        )
    return _flow_levels.schedule({**_flow_levels.DEFAULTS, **config}, request)


def sampler(config: Config) -> Sampler:
    """Return Heun's method: the slopes at both ends of a hop, averaged; it draws no noise."""
    del config

    def flow_heun(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here)
            slope = (x - clean) / here.sigma
            length = there.sigma - here.sigma
            if there.sigma > 0:  # the slope is not defined at 0, where the last hop ends
                ahead = x + length * slope
                clean = denoise(ahead, there)
                slope = 0.5 * slope + (ahead - clean) * (0.5 / there.sigma)
            x = x + length * slope
            yield Step(i, x, clean)

    return flow_heun
