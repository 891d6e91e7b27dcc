"""Noise levels of DPM-Solver and its relatives, and what their networks' outputs mean there.

Points are variance preserving (alpha^2 + sigma^2 = 1), or with flow sigmas on the straight path
(alpha + sigma = 1).
"""

from __future__ import annotations

import math

import numpy as np

from edgediff import denoise
from edgediff.denoise import Conversion, Form
from edgediff.errors import BundleError, InputError
from edgediff.schedule import Config, Floats, Point, Request, Schedule, chained, checked_timesteps, spaced
from edgediff.sigmas import flow, lu, respaced, whole_timesteps

_SHAPES = (
    "use_karras_sigmas",
    "use_lu_lambdas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_flow_sigmas",
)


def shapes(config: Config) -> list[str]:
    """Return the keys by which a configuration asks for sigmas of a shape of their own."""
    return [key for key in _SHAPES if config.get(key)]


def levels(
    config: Config, request: Request, table: Floats, always_round: bool = True
) -> tuple[Floats, Floats]:
    """Return whole timesteps and their sigmas, noisiest first, without the last sigma.

    Shaped sigmas (Karras and others) span the whole training ``table``; Euler's span the spaced ones. Without
    ``always_round``, timesteps of a cosine schedule are cut off where others are rounded.
    """
    if request.sigmas is not None:
        raise InputError("sigmas: this sampler takes timesteps or a number of steps, not sigmas.")
    shift = _flow_shift(config, request)
    if request.timesteps is not None:
        if shapes(config):
            raise InputError(f"timesteps: they cannot be combined with {shapes(config)[0]}; drop one.")
        times = np.asarray(checked_timesteps(request.timesteps, len(table)))
    elif shapes(config):
        return _shaped(config, request.steps, table, shift, always_round)
    else:
        usable = int(np.sum(-np.log(table) >= config.get("lambda_min_clipped", -math.inf)))
        times = np.round(spaced(config, request.steps, last=usable, extra=1))
    return times, np.interp(times, np.arange(len(table)), table)


def _shaped(
    config: Config, steps: int, table: Floats, shift: float, always_round: bool
) -> tuple[Floats, Floats]:
    sigmas = respaced(config, table[::-1], steps)
    by_lambda = config.get("use_lu_lambdas") and not config.get("use_karras_sigmas")
    if by_lambda:
        sigmas = lu(float(table[0]), float(table[-1]), steps)
    if sigmas is None:
        sigmas = flow(steps, len(table), shift)
        return np.floor(sigmas * len(table)), sigmas
    if config["use_flow_sigmas"]:
        raise BundleError("scheduler config: use_flow_sigmas excludes other shapes of sigmas; keep one.")
    rounded = bool(by_lambda or config.get("use_karras_sigmas"))
    rounded = rounded and (always_round or config["beta_schedule"] != "squaredcos_cap_v2")
    return whole_timesteps(sigmas, table, rounded), sigmas


def _flow_shift(config: Config, request: Request) -> float:
    """Return the shift of flow sigmas: the configuration's, or exp(mu) where the call gives mu."""
    if request.mu is None:
        return float(config["flow_shift"])
    if config["time_shift_type"] != "exponential":
        raise BundleError(
            f"scheduler config: time_shift_type {config['time_shift_type']!r} is unknown; use exponential."
        )
    if not config["use_dynamic_shifting"]:
        raise InputError("mu: this scheduler's shift is fixed; set use_dynamic_shifting or leave mu out.")
    return float(np.exp(request.mu))


def placed(config: Config, times: Floats, sigmas: Floats) -> Schedule:
    """Return the schedule through ``sigmas``, which are one more than ``times``.

    They are rounded to float32 as in diffusers, because near 1 a flow's alpha = 1 - sigma magnifies that.
    """
    rounded = sigmas.astype(np.float32).astype(np.float64)
    if np.any(rounded[1:-1] == rounded[:-2]):
        raise InputError(f"steps: {len(times)} steps put two on one noise level; ask for fewer.")
    points = []
    for t, s in zip([*times.tolist(), 0.0], rounded.tolist(), strict=True):
        alpha = 1 - s if config["use_flow_sigmas"] else 1 / math.sqrt(1 + s**2)
        points.append(Point(t, alpha, s if config["use_flow_sigmas"] else s * alpha))
    return Schedule(1.0, chained(points))


def conversion(config: Config) -> Conversion:
    """Return what the network's output means; the input is never scaled."""
    kind = config["prediction_type"]
    if not config["use_flow_sigmas"]:
        if kind != "flow_prediction":
            return denoise.conversion(kind)
        # diffusers leaves the sigma of the straight path, which is not the level's, in this combination.
        return lambda at: Form(1.0, 1.0, -at.sigma / at.alpha)
    forms: dict[str, Conversion] = {
        "epsilon": lambda at: Form(1.0, 1 / at.alpha, -at.sigma / at.alpha),
        "v_prediction": lambda at: Form(1.0, at.alpha, -at.sigma),
        "sample": lambda at: Form(1.0, 0.0, 1.0),
        "flow_prediction": lambda at: Form(1.0, 1.0, -at.sigma),
    }
    return forms[kind]
