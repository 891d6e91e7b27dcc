"""DPM-Solver++ on EDM's noise levels: Lu et al. (2022, arXiv:2211.01095), Karras et al. (2022)."""

from __future__ import annotations

import math

import numpy as np

from edgediff.errors import BundleError, InputError
from edgediff.sampler import Sampler
from edgediff.samplers import edm_euler
from edgediff.samplers.dpmpp import checked_algorithm, multistep
from edgediff.schedule import Config, Request, Schedule

DEFAULTS = {
    "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "rho": 7.0, "solver_order": 2,
    "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "algorithm_type":
    "dpmsolver++", "solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False,
    "final_sigmas_type": "zero",
}  # fmt: skip
SUPPORTED = {"prediction_type": ("epsilon", "v_prediction")}
conversion = edm_euler.conversion


def schedule(config: Config, request: Request) -> Schedule:
    """Points have alpha = 1; with ``sigma_min`` the last hop ends at the sigma it starts from."""
    if request.sigmas is not None:
        raise InputError("sigmas: this sampler lays out its own; ask for a number of steps.")
    sigmas = edm_euler.ramped(config, np.linspace(0, 1, request.steps))
    lowest = float(config["sigma_min"])
    return edm_euler.placed(config, request, sigmas, lowest, lambda sigma: 0.25 * math.log(sigma))


def sampler(config: Config) -> Sampler:
    """Return the multistep solver of the configuration's order; the sde one draws once per hop."""
    algorithm = checked_algorithm(config, ("dpmsolver++", "sde-dpmsolver++"))
    if algorithm == "sde-dpmsolver++" and config["solver_order"] == 3:
        raise BundleError("scheduler config: sde-dpmsolver++ has no third order here; set solver_order to 2.")
    return multistep(config, algorithm)
