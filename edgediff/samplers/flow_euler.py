"""Euler for flow matching: Lipman et al. (2023, arXiv:2210.02747), along straight paths from noise to
picture."""

from __future__ import annotations

from collections.abc import Iterator

from edgediff import denoise as outputs
from edgediff.denoise import Conversion, Form
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import _flow_levels, flow_lcm
from edgediff.schedule import Config, Schedule

DEFAULTS = {**_flow_levels.DEFAULTS, "stochastic_sampling": False}
SUPPORTED = {"prediction_type": ("flow_prediction",)}
schedule = _flow_levels.schedule


def conversion(config: Config) -> Conversion:
    """A network whose time runs from noise to picture predicts clean - noise, others noise - clean."""
    if config["invert_sigmas"]:
        return lambda at: Form(1.0, 1.0, at.sigma)
    return outputs.conversion("flow_prediction")


def sampler(config: Config) -> Sampler:
    """Return the Euler sampler, which draws no noise, or with ``stochastic_sampling`` the one of flow_lcm."""
    if config["stochastic_sampling"]:
        return flow_lcm.sampler(config)

    def flow_euler(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here)
            ratio = there.sigma / here.sigma
            x = ratio * x + (1 - ratio) * clean
            yield Step(i, x, clean)

    return flow_euler
