"""DPM-Solver and DPM-Solver++, multistep: Lu et al. (2022, arXiv:2206.00927 and 2211.01095).

Both are exponential integrators in lambda = log(alpha / sigma): of the noise prediction (DPM-Solver, eq. 3.4)
or of the clean prediction (DPM-Solver++, eq. 8), which is continued as a polynomial in lambda through the
last predictions. The sde variants (DPM-Solver++, section 5) solve the diffusion SDE.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from edgediff.denoise import threshold_of
from edgediff.errors import BundleError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import _dpm_levels
from edgediff.schedule import Config, Point, Request, Schedule, alphas_cumprod
from edgediff.sigmas import last_sigma, sigma_table32

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "solver_order": 2, "prediction_type": "epsilon", "thresholding": False,
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False, "use_karras_sigmas":
    False, "use_exponential_sigmas": False, "use_beta_sigmas": False, "use_lu_lambdas": False,
    "use_flow_sigmas": False, "flow_shift": 1.0, "final_sigmas_type": "zero", "lambda_min_clipped":
    -math.inf, "variance_type": None, "timestep_spacing": "linspace", "steps_offset": 0,
    "rescale_betas_zero_snr": False, "use_dynamic_shifting": False, "time_shift_type": "exponential",
}  # fmt: skip
SUPPORTED = {
    "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction"),
    # Only learned variances change what the solver reads; the others are for other solvers.
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
conversion = _dpm_levels.conversion


def schedule(config: Config, request: Request) -> Schedule:
    """Whole timesteps laid out with one point more than steps, or shaped sigmas over the training table."""
    products = alphas_cumprod(config)
    table = sigma_table32(products, bool(config["rescale_betas_zero_snr"]))
    times, sigmas = _dpm_levels.levels(config, request, table, always_round=False)
    return _dpm_levels.placed(config, times, np.append(sigmas, last_sigma(config, products)))


class Hop(NamedTuple):
    """``x' = keep * x - gain * integral + spread * noise``.

    The integral is that of the prediction over a hop of length ``z`` in lambda (see :func:`weights`).
    """

    keep: float
    gain: float
    z: float
    spread: float


def hop(algorithm: str, here: Point, there: Point) -> Hop:
    """Return the exact solution between two points for a given course of the prediction."""
    h = rise(here, there)
    if algorithm == "dpmsolver++":
        return Hop(there.sigma / here.sigma, there.alpha, -h, 0.0)
    if algorithm == "sde-dpmsolver++":
        spread = there.sigma * max(-math.expm1(-2 * h), 0.0) ** 0.5
        return Hop(there.sigma / here.sigma * math.exp(-h), there.alpha, -2 * h, spread)
    if algorithm == "dpmsolver":
        return Hop(there.alpha / here.alpha, there.sigma, h, 0.0)
    spread = there.sigma * max(math.expm1(2 * h), 0.0) ** 0.5
    return Hop(there.alpha / here.alpha, 2 * there.sigma, h, spread)


def weights(z: float, count: int, midpoint: bool, bend: float = 1.0, half: float = 0.5) -> list[float]:
    """Return what level, slope and curvature of the prediction weigh in a hop's integral, ``count`` of them.

    The level's is exp(z) - 1; the slope's is exact or, ``midpoint``, half the level's (both second order).
    The curvature's is exact for ``bend`` = 2; DPM-Solver takes 1.
    """
    level = math.expm1(z)
    slope = level / z - 1 if z else 0.0
    if count == 1:
        return [level]
    if count == 2:
        return [level, 0.5 * level if midpoint else slope]
    return [level, slope, bend * ((slope / z if z else 0.5) - half)]


def rise(here: Point, there: Point) -> float:
    """Return the change of lambda = log(alpha / sigma); infinite when ``there`` is clean."""
    if there.sigma == 0:
        return math.inf
    return math.log(there.alpha / there.sigma) - math.log(here.alpha / here.sigma)


def shares(past: Sequence[Point], there: Point, weights: Sequence[float]) -> list[float]:
    """Return the factor of each of up to three predictions, newest first, in a hop's integral.

    Level, slope and curvature are Newton's divided differences in lambda, in units of the hop (DPM-Solver++,
    appendix B); ``weights`` are theirs.
    """
    if len(past) == 1:
        return [weights[0]]
    h, near = rise(past[0], there), rise(past[1], past[0])
    if len(past) == 2:
        slope = weights[1] * h / near
        return [weights[0] + slope, -slope]
    far = rise(past[2], past[1])
    change = (weights[1] * near + weights[2] * h) / (near + far)
    newer, older = (weights[1] + change) * h / near, change * h / far
    return [weights[0] + newer, -newer - older, older]


def checked_algorithm(config: Config, allowed: tuple[str, ...] = ALGORITHMS) -> str:
    """Return the algorithm's name; the names of other solvers' algorithms stand for DPM-Solver++ (2M)."""
    algorithm: str = "dpmsolver++" if config["algorithm_type"] == "deis" else config["algorithm_type"]
    if algorithm not in allowed:
        raise BundleError(f"scheduler config: algorithm_type {algorithm!r}; use {', '.join(allowed)}.")
    if config["solver_type"] not in ("midpoint", "heun", "logrho", "bh1", "bh2"):
        raise BundleError(
            f"scheduler config: solver_type {config['solver_type']!r} is unknown; use midpoint or heun."
        )
    if config["solver_order"] not in (1, 2, 3):
        raise BundleError(f"scheduler config: solver_order {config['solver_order']!r}; use 1, 2 or 3.")
    if not algorithm.endswith("++"):
        if config["final_sigmas_type"] == "zero":
            raise BundleError(
                f"scheduler config: {algorithm} cannot end at sigma 0; set final_sigmas_type to sigma_min."
            )
        if config["prediction_type"] == "flow_prediction" or (
            config["prediction_type"] == "v_prediction" and config["use_flow_sigmas"]
        ):
            raise BundleError(f"scheduler config: {algorithm} takes no flow; use dpmsolver++.")
    return algorithm


def prediction(algorithm: str, here: Point) -> tuple[float, float]:
    """Return what is integrated, in shares of x and of the clean prediction: the latter, or the noise."""
    return (0.0, 1.0) if algorithm.endswith("++") else (1 / here.sigma, -here.alpha / here.sigma)


def sampler(config: Config) -> Sampler:
    """Return the solver of the configuration's algorithm and order; the sde ones draw once per hop."""
    algorithm = checked_algorithm(config)
    if algorithm == "sde-dpmsolver" and config["solver_order"] == 3:
        raise BundleError("scheduler config: sde-dpmsolver has no third order; set solver_order to 2.")
    return multistep(config, algorithm)


def multistep(config: Config, algorithm: str, bend: float = 1.0) -> Sampler:
    """Return the multistep solver: every hop uses the predictions of the hops before it."""
    limit = threshold_of(config)
    midpoint = config["solver_type"] != "heun"
    sde = algorithm.startswith("sde")
    # In diffusers the sde's curvature has this term with the wrong sign, so it is second order at best.
    half = -0.5 if sde else 0.5

    def allowed(place: int, total: int) -> int:
        """Return the order that a hop may have by its place; short schedules end with lower ones."""
        short = config["lower_order_final"] and total < 15
        if place == total - 1 and (config["euler_at_final"] or short):
            return 1
        return min(config["solver_order"], 2) if place == total - 2 and short else int(config["solver_order"])

    def dpmpp(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        past: list[tuple[Point, Array]] = []
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here) if limit is None else limit(denoise(x, here))
            order = 1 if there.sigma == 0 else allowed(schedule.skipped + i, schedule.total)
            used = past[: order - 1]
            points = [here, *(point for point, _ in used)]
            keep, gain, z, spread = hop(algorithm, here, there)
            first, *others = shares(points, there, weights(z, len(points), midpoint, bend, half))
            skip, out = prediction(algorithm, here)
            moved = (keep - gain * first * skip) * x + (-gain * first * out) * clean
            for share, (_, one) in zip(others, used, strict=True):
                moved = moved + (-gain * share) * one
            if sde:
                moved = moved + spread * noise.draw(x.shape)
            past = [(here, skip * x + out * clean if skip else clean), *past[:1]]
            x = moved
            yield Step(i, x, clean)

    return dpmpp
