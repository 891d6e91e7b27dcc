"""DPM-Solver++ (2M SDE) on the cosine levels of Stable Audio Open: Evans et al. (2024, arXiv:2407.14358).

The noise is drawn afresh at every hop; diffusers takes increments of one Brownian path, which have the same
distribution but are other numbers.
"""

from __future__ import annotations

import math

import numpy as np

from edgediff.errors import BundleError, InputError
from edgediff.sampler import Sampler
from edgediff.samplers import edm_euler
from edgediff.samplers.dpmpp import checked_algorithm, multistep
from edgediff.schedule import Config, Request, Schedule

DEFAULTS = {
    "sigma_min": 0.3, "sigma_max": 500, "sigma_data": 1.0, "sigma_schedule": "exponential",
    "num_train_timesteps": 1000, "solver_order": 2, "prediction_type": "v_prediction", "rho": 7.0,
    "solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False, "final_sigmas_type":
    "zero",
}  # fmt: skip
SUPPORTED = {"prediction_type": ("epsilon", "v_prediction")}
conversion = edm_euler.conversion


def schedule(config: Config, request: Request) -> Schedule:
    """Points have alpha = 1; the network is told the angle of the noise, from 0 to 1."""
    if request.sigmas is not None:
        raise InputError("sigmas: this sampler lays out its own; ask for a number of steps.")
    sigmas = edm_euler.ramped(config, np.linspace(0, 1, request.steps))
    lowest = float(config["sigma_min"])
    return edm_euler.placed(config, request, sigmas, lowest, lambda sigma: math.atan(sigma) / math.pi * 2)


def sampler(config: Config) -> Sampler:
    """Return the multistep SDE solver of the configuration's order; it draws once per hop."""
    if config["solver_order"] not in (1, 2):
        raise BundleError(f"scheduler config: solver_order {config['solver_order']!r}; use 1 or 2.")
    full = {**config, "algorithm_type": "sde-dpmsolver++", "thresholding": False}
    return multistep(full, checked_algorithm(full))
