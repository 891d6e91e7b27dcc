"""DPM-Solver and DPM-Solver++, singlestep: Lu et al. (2022, arXiv:2206.00927 and 2211.01095, algorithm 1).

Hops come in groups of up to ``solver_order``. The first of a group is a first-order step; every later one
starts again from the group's first sample, with the predictions made since, so only a group's end counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgediff.denoise import threshold_of
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import _dpm_levels
from edgediff.samplers.dpmpp import checked_algorithm, hop, prediction, rise, weights
from edgediff.schedule import Config, Point, Request, Schedule, alphas_cumprod
from edgediff.sigmas import last_sigma, sigma_table32

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "solver_order": 2, "prediction_type": "epsilon", "thresholding": False,
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint", "lower_order_final": False, "use_karras_sigmas": False,
    "use_exponential_sigmas": False, "use_beta_sigmas": False, "use_flow_sigmas": False, "flow_shift": 1.0,
    "final_sigmas_type": "zero", "lambda_min_clipped": -math.inf, "variance_type": None,
    "use_dynamic_shifting": False, "time_shift_type": "exponential",
}  # fmt: skip
SUPPORTED = {
    "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction"),
    # Only learned variances change what the solver reads; the others are for other solvers.
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
conversion = _dpm_levels.conversion


def schedule(config: Config, request: Request) -> Schedule:
    """Whole timesteps evenly spaced with one point more than steps, or shaped sigmas over the whole table."""
    products = alphas_cumprod(config)
    even = {**config, "timestep_spacing": "linspace"}
    times, sigmas = _dpm_levels.levels(even, request, sigma_table32(products, zero_snr=False))
    return _dpm_levels.placed(config, times, np.append(sigmas, last_sigma(config, products)))


def orders(config: Config, total: int) -> list[int]:
    """Return every hop's order: 1, 2, 1, 2, ... or 1, 2, 3, 1, 2, 3, ..., cut off at the end.

    The last is 1 where sigma ends at 0, and where a whole group's is to be lowered.
    """
    order: int = config["solver_order"]
    found = [i % order + 1 for i in range(total)]
    if config["final_sigmas_type"] == "zero" or (config["lower_order_final"] and found[-1] == order):
        found[-1] = 1
    return found


def sampler(config: Config) -> Sampler:
    """Return the solver of the configuration's algorithm and order; the sde one draws once per hop."""
    algorithm = checked_algorithm(config, ("dpmsolver++", "dpmsolver", "sde-dpmsolver++"))
    limit = threshold_of(config)
    midpoint = config["solver_type"] != "heun"
    sde = algorithm.startswith("sde")
    half = -0.5 if sde else 0.5  # the wrong sign that diffusers has, as in the multistep solver

    def singlestep(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        planned = orders(config, schedule.total)[schedule.skipped :]
        group: list[tuple[Point, Array]] = []  # the first's clean prediction, then what is integrated
        start = x
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here) if limit is None else limit(denoise(x, here))
            skip, out = prediction(algorithm, here)
            # A walk that begins inside a group starts one of its own there.
            order = min(planned[i], len(group) + 1)
            if order == 1:
                start, group = 1.0 * x, [(here, clean)]  # not x itself, which may be written into
            else:
                group = [*group, (here, skip * x + out * clean if skip else clean)]
            (base, first), *later = group
            keep, gain, z, spread = hop(algorithm, base, there)
            level, *rest = _shares(
                [at for at, _ in group], there, weights(z, order, midpoint, 2.0, half), midpoint
            )
            skip, out = prediction(algorithm, base)
            x = (keep - gain * level * skip) * start + (-gain * level * out) * first
            for share, (_, one) in zip(rest, later, strict=True):
                x = x + (-gain * share) * one
            if sde:
                x = x + spread * noise.draw(x.shape)
            yield Step(i, x, clean)

    return singlestep


def _shares(group: Sequence[Point], there: Point, weights: Sequence[float], midpoint: bool) -> list[float]:
    """Return the factor of each of a group's predictions, oldest first, in the integral from its first point.

    Divided differences in lambda, in units of the hop, all from the first point; in the third order
    ``midpoint`` (DPM-Solver-3) takes the slope to the last point for the slope and no curvature.
    """
    if len(group) == 1:
        return list(weights)
    base, h = group[0], rise(group[0], there)
    last = rise(base, group[-1])
    if len(group) == 2 or midpoint:
        slope = weights[1] * h / last
        return [weights[0] - slope, *[0.0] * (len(group) - 2), slope]
    middle = rise(base, group[1])
    bend = weights[2] * h
    nearer = (weights[1] * last - bend) / (last - middle) * h / middle
    further = (bend - weights[1] * middle) / (last - middle) * h / last
    return [weights[0] - nearer - further, nearer, further]
