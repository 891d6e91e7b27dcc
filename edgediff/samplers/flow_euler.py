"""Euler for flow matching: Lipman et al. (2023); the shift is Esser et al. (2024), eq. 23."""

from __future__ import annotations

import numpy as np

from edgediff.errors import InputError
from edgediff.sampler import Sampler
from edgediff.samplers import euler
from edgediff.schedule import Config, Floats, Point, Request, Schedule, chained

DEFAULTS = {
    "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, "invert_sigmas": False,
    "shift_terminal": None, "use_karras_sigmas": False, "use_exponential_sigmas": False,
    "use_beta_sigmas": False, "time_shift_type": "exponential", "stochastic_sampling": False,
    "prediction_type": "flow_prediction",
}  # fmt: skip
SUPPORTED = {
    "use_dynamic_shifting": (False,),
    "invert_sigmas": (False,),
    "shift_terminal": (None,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "stochastic_sampling": (False,),
    "prediction_type": ("flow_prediction",),
}


def _shifted(sigmas: Floats, shift: float) -> Floats:
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def schedule(config: Config, request: Request) -> Schedule:
    """Points have alpha = 1 - sigma; the network is told 1000 * sigma.

    Without explicit sigmas the ends of the spacing are the shifted ends of the training table and the shift
    is applied once more, as diffusers does; explicit sigmas are shifted once. Explicit timesteps are told to
    the network as they are while the sigmas derived from them are shifted, which is diffusers' rule too.
    """
    total = config["num_train_timesteps"]
    shift = float(config["shift"])
    if request.timesteps is not None:
        sigmas = _shifted(np.asarray(request.timesteps, np.float64) / total, shift)
    elif request.sigmas is not None:
        sigmas = _shifted(np.asarray(request.sigmas, np.float64), shift)
    else:
        ends = _shifted(np.asarray([1.0, 1.0 / total]), shift)
        sigmas = _shifted(np.linspace(ends[0], ends[1], request.steps), shift)
    if not len(sigmas) or not np.all(np.diff(sigmas) < 0) or not np.all((sigmas > 0) & (sigmas <= 1)):
        raise InputError(f"sigmas: {sigmas.tolist()} must fall strictly inside (0, 1].")
    times = total * sigmas if request.timesteps is None else np.asarray(request.timesteps, np.float64)
    points = [Point(float(t), 1 - s, s) for t, s in zip(times, sigmas.tolist(), strict=True)]
    return Schedule(1.0, chained([*points, Point(0.0, 1.0, 0.0)]))


def sampler(config: Config) -> Sampler:
    """Return the Euler sampler: along a straight path its step has the same form in both spaces."""
    del config
    return euler.sampler({})
