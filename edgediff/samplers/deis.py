"""DEIS in log rho, multistep: Zhang and Chen (2023, arXiv:2204.13902), section 3.3.

rho = sigma / alpha, so log rho = -lambda: the noise prediction is continued as a polynomial in lambda and
integrated exactly. That is DPM-Solver with the exact curvature and, at second order, its ``heun`` type.
"""

from __future__ import annotations

import numpy as np

from edgediff.errors import BundleError, InputError
from edgediff.sampler import Sampler
from edgediff.samplers import _dpm_levels
from edgediff.samplers.dpmpp import multistep
from edgediff.schedule import Config, Request, Schedule, alphas_cumprod
from edgediff.sigmas import sigma_table32

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "solver_order": 2, "prediction_type": "epsilon", "thresholding": False,
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "algorithm_type": "deis", "solver_type":
    "logrho", "lower_order_final": True, "use_karras_sigmas": False, "use_exponential_sigmas": False,
    "use_beta_sigmas": False, "use_flow_sigmas": False, "flow_shift": 1.0, "timestep_spacing": "linspace",
    "steps_offset": 0, "use_dynamic_shifting": False, "time_shift_type": "exponential",
}  # fmt: skip
SUPPORTED = {
    "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction"),
    "algorithm_type": ("deis", "dpmsolver", "dpmsolver++"),
    "solver_type": ("logrho", "midpoint", "heun", "bh1", "bh2"),
}
"""diffusers takes the names of other solvers' algorithms and types too, and means its own by them."""
conversion = _dpm_levels.conversion


def schedule(config: Config, request: Request) -> Schedule:
    """Levels are DPM-Solver's; shaped sigmas repeat the last one, so that the last hop does nothing."""
    if request.timesteps is not None:
        raise InputError("timesteps: this sampler lays out its own; ask for a number of steps.")
    table = sigma_table32(alphas_cumprod(config), zero_snr=False)
    times, sigmas = _dpm_levels.levels(config, request, table)
    last = sigmas[-1] if _dpm_levels.shapes(config) else table[0]
    return _dpm_levels.placed(config, times, np.append(sigmas, last))


def sampler(config: Config) -> Sampler:
    """Return the solver of the configuration's order; it draws no noise."""
    if config["solver_order"] not in (1, 2, 3):
        raise BundleError(f"scheduler config: solver_order {config['solver_order']!r}; use 1, 2 or 3.")
    if config["prediction_type"] == "flow_prediction" and not config["use_flow_sigmas"]:
        raise BundleError("scheduler config: flow_prediction needs use_flow_sigmas; set it.")
    return multistep({**config, "solver_type": "heun", "euler_at_final": False}, "dpmsolver", bend=2.0)
