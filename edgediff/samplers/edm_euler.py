"""EDM with Euler steps: Karras et al. (2022), section 5 (preconditioning) and algorithm 1 without churn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgediff.denoise import Conversion, Form
from edgediff.errors import BundleError, InputError
from edgediff.sampler import Sampler
from edgediff.samplers import euler
from edgediff.schedule import Config, Floats, Point, Request, Schedule, chained
from edgediff.sigmas import exponential, karras_at

DEFAULTS = {
    "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "rho": 7.0, "final_sigmas_type": "zero",
}  # fmt: skip
SUPPORTED = {"prediction_type": ("epsilon", "v_prediction")}


def conversion(config: Config) -> Conversion:
    """Return EDM's preconditioning (eq. 7 and table 1); the output of a v network has the opposite sign."""
    data = float(config["sigma_data"])
    sign = -1.0 if config["prediction_type"] == "v_prediction" else 1.0

    def form(at: Point) -> Form:
        radius = math.hypot(at.sigma, data)
        return Form(1 / radius, (data / radius) ** 2, sign * at.sigma * data / radius)

    return form


def schedule(config: Config, request: Request) -> Schedule:
    """Points have alpha = 1; with ``sigma_min`` the last hop goes from the last sigma to itself.

    ``request.sigmas`` are what diffusers takes them for: places on the ramp from sigma_max (0) to sigma_min
    (1). The exponential schedule reads no more than how many there are.
    """
    ramp = np.linspace(0, 1, request.steps)
    if request.sigmas is not None:
        ramp = np.asarray(request.sigmas, np.float64)
        if not len(ramp) or not np.all(np.diff(ramp) > 0) or ramp[0] < 0 or ramp[-1] > 1:
            raise InputError(
                f"sigmas: {ramp.tolist()} must rise from 0 to 1; they are places between this scheduler's "
                "sigma_max and its sigma_min."
            )
    sigmas = ramped(config, ramp)
    return placed(config, request, sigmas, float(sigmas[-1]), lambda sigma: 0.25 * math.log(sigma))


def ramped(config: Config, ramp: Floats) -> Floats:
    """Return the sigmas at places on the ramp from sigma_max (0) to sigma_min (1)."""
    low, high, kind = float(config["sigma_min"]), float(config["sigma_max"]), config["sigma_schedule"]
    if not 0 < low < high:
        raise BundleError(f"scheduler config: sigma_min {low} must be above 0 and below sigma_max {high}.")
    if kind == "karras":
        return karras_at(ramp, low, high, float(config["rho"]))
    if kind == "exponential":
        # diffusers counts from the low end here, so a single step starts at sigma_min.
        return np.asarray([low]) if len(ramp) == 1 else exponential(low, high, len(ramp))
    raise BundleError(f"scheduler config: sigma_schedule {kind!r} is unknown; use karras or exponential.")


def placed(
    config: Config, request: Request, sigmas: Floats, lowest: float, told: Callable[[float], float]
) -> Schedule:
    """Return the schedule through ``sigmas`` to 0 or ``lowest``; the network is told ``told(sigma)``."""
    if request.timesteps is not None:
        raise InputError("timesteps: this sampler lays out its own; ask for a number of steps.")
    ends = {"zero": 0.0, "sigma_min": lowest}
    kind = config["final_sigmas_type"]
    if kind not in ends:
        raise BundleError(f"scheduler config: final_sigmas_type {kind!r} is unknown; use zero or sigma_min.")
    rounded = np.append(sigmas, ends[kind]).astype(np.float32).tolist()
    points = [Point(told(sigma), 1.0, sigma) for sigma in rounded[:-1]]
    start = (float(config["sigma_max"]) ** 2 + 1) ** 0.5
    return Schedule(start, chained([*points, Point(0.0, 1.0, rounded[-1])]))


def sampler(config: Config) -> Sampler:
    """Return the Euler sampler, without churn; it draws no noise."""
    return euler.sampler({**euler.DEFAULTS, **config})
