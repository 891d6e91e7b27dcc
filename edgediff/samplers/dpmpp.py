"""DPM-Solver++ multistep: Lu et al. (2022, arXiv:2211.01095), eq. 9 (first order) and algorithm 2 (2M)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edgediff.denoise import threshold_of
from edgediff.errors import InputError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.schedule import (
    Config,
    Floats,
    Point,
    Request,
    Schedule,
    alphas_cumprod,
    chained,
    checked_timesteps,
    spaced,
)
from edgediff.sigmas import karras, last_sigma, sigma_table, timestep_of

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "solver_order": 2, "prediction_type": "epsilon", "thresholding": False,
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False, "use_karras_sigmas":
    False, "use_exponential_sigmas": False, "use_beta_sigmas": False, "use_lu_lambdas": False,
    "use_flow_sigmas": False, "flow_shift": 1.0, "final_sigmas_type": "zero", "lambda_min_clipped":
    -math.inf, "variance_type": None, "timestep_spacing": "linspace", "steps_offset": 0,
    "rescale_betas_zero_snr": False, "use_dynamic_shifting": False,
}  # fmt: skip
SUPPORTED = {
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "algorithm_type": ("dpmsolver++",),
    "solver_order": (1, 2),
    "solver_type": ("midpoint", "heun"),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "variance_type": (None,),
}


def schedule(config: Config, request: Request) -> Schedule:
    """Points are variance preserving; Karras sigmas span the whole training table (Euler's span the spaced
    ones)."""
    products = alphas_cumprod(config)
    table = sigma_table(products, bool(config["rescale_betas_zero_snr"]))
    times, sigmas = _levels(config, request, table)
    sigmas = np.append(sigmas, last_sigma(config, products))
    points = []
    for t, s in zip([*times, 0.0], sigmas, strict=True):
        alpha = 1 / math.sqrt(1 + float(s) ** 2)
        points.append(Point(float(t), alpha, float(s) * alpha))
    return Schedule(1.0, chained(points))


def _levels(config: Config, request: Request, table: Floats) -> tuple[Floats, Floats]:
    """Return whole timesteps and their sigmas, noisiest first, without the last sigma."""
    if request.sigmas is not None:
        raise InputError("sigmas: this sampler takes timesteps or a number of steps, not sigmas.")
    if request.timesteps is not None:
        if config["use_karras_sigmas"]:
            raise InputError("timesteps: they cannot be combined with Karras sigmas; drop one.")
        times = np.asarray(checked_timesteps(request.timesteps, len(table)))
    elif config["use_karras_sigmas"]:
        shaped = karras(float(table[0]), float(table[-1]), request.steps)
        times = timestep_of(shaped, table)
        # The network saw whole timesteps; only the cosine schedule, whose ends are far apart, is left to
        # truncation.
        times = np.floor(times) if config["beta_schedule"] == "squaredcos_cap_v2" else np.round(times)
        return times, shaped
    else:
        usable = int(np.sum(-np.log(table) >= config["lambda_min_clipped"]))
        times = np.round(spaced(config, request.steps, last=usable, extra=1))
    return times, np.interp(times, np.arange(len(table)), table)


def sampler(config: Config) -> Sampler:
    """Return DPM-Solver++ of the configuration's order; it draws no noise."""
    second = config["solver_order"] == 2
    heun = config["solver_type"] == "heun"
    limit = threshold_of(config)

    def dpmpp(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        last = len(schedule.hops) - 1
        lower_last = config["euler_at_final"] or (config["lower_order_final"] and last + 1 < 15)
        lower_last = lower_last or config["final_sigmas_type"] == "zero"
        before: tuple[Point, Array] | None = None
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here) if limit is None else limit(denoise(x, here))
            gain = there.alpha * -math.expm1(-_lambda_step(here, there))  # alpha_t * (1 - exp(-h))
            moved = (there.sigma / here.sigma) * x
            if not second or before is None or (i == last and lower_last):
                x = moved + gain * clean
            else:
                h = _lambda_step(here, there)
                ratio = h / _lambda_step(before[0], here)
                slope = there.alpha * (1 + math.expm1(-h) / h) if heun else 0.5 * gain
                x = moved + (gain + slope * ratio) * clean + (-slope * ratio) * before[1]
            before = (here, clean)
            yield Step(i, x, clean)

    return dpmpp


def _lambda_step(here: Point, there: Point) -> float:
    """Return the change of log(alpha / sigma); infinite when ``there`` is clean."""
    if there.sigma == 0:
        return math.inf
    return math.log(there.alpha / there.sigma) - math.log(here.alpha / here.sigma)
