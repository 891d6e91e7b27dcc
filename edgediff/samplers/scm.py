"""Continuous-time consistency models in TrigFlow's angles: Lu and Song (2024, arXiv:2410.11081)."""

from __future__ import annotations

import math

import numpy as np

from edgediff.denoise import Conversion, Form
from edgediff.errors import InputError
from edgediff.sampler import Sampler
from edgediff.samplers.flow_lcm import renoising
from edgediff.schedule import Config, Floats, Point, Request, Schedule, chained

DEFAULTS = {
    "num_train_timesteps": 1000, "prediction_type": "trigflow", "sigma_data": 0.5,
    "max_timesteps": 1.57080, "intermediate_timesteps": 1.3,
}  # fmt: skip
SUPPORTED = {"prediction_type": ("trigflow",)}


def schedule(config: Config, request: Request) -> Schedule:
    """Points lie on a circle: alpha = cos(t), and noise of deviation sigma_data is weighted with sin(t).

    The network is told the angle. The start is pure noise of deviation sigma_data, which diffusers' pipeline
    scales, not its scheduler. Explicit timesteps are angles and include the one where the last hop ends.
    """
    deviation = float(config["sigma_data"])
    points = [Point(t, math.cos(t), deviation * math.sin(t)) for t in _angles(config, request).tolist()]
    return Schedule(deviation, chained(points))


def _angles(config: Config, request: Request) -> Floats:
    if request.sigmas is not None:
        raise InputError("sigmas: this sampler takes angles as timesteps or a number of steps, not sigmas.")
    if request.timesteps is not None:
        angles = np.asarray(request.timesteps, np.float64)
        inside = len(angles) > 1 and np.all((angles >= 0) & (angles <= 1.5708))
        if not inside or not np.all(np.diff(angles) < 0):
            raise InputError(
                f"timesteps: {list(request.timesteps)} must be two or more angles that fall strictly from at "
                "most 1.5708 to the end, usually 0."
            )
        return angles
    if request.steps > config["num_train_timesteps"]:
        raise InputError(
            f"steps: {request.steps} were asked for, this model was trained on "
            f"{config['num_train_timesteps']}; ask for fewer."
        )
    highest, middle = config["max_timesteps"], config["intermediate_timesteps"]
    if request.steps == 2 and middle is not None:
        return np.asarray([highest, middle, 0.0])
    return np.linspace(highest, 0, request.steps + 1)


def conversion(config: Config) -> Conversion:
    """The network gives a velocity: clean = cos(t) * x - sin(t) * network(x)."""
    del config
    return lambda at: Form(1.0, math.cos(at.t), -math.sin(at.t))


def sampler(config: Config) -> Sampler:
    """Return the sampler of flow_lcm: predict, then noise again to the next angle."""
    del config
    return renoising
