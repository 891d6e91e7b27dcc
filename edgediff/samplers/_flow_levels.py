"""Noise levels for flow matching: where ``x = (1 - sigma) * clean + sigma * noise`` is evaluated.

The shift is Esser et al. (2024, arXiv:2403.03206), eq. 23; one that depends on the size of the result writes
its factor as exp(mu), with mu linear in the number of tokens the denoiser sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgediff.errors import BundleError, InputError
from edgediff.schedule import Config, Floats, Point, Request, Schedule, chained
from edgediff.sigmas import respaced

DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, "base_shift": 0.5, "max_shift":
    1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096, "invert_sigmas": False, "shift_terminal":
    None, "use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False,
    "time_shift_type": "exponential", "prediction_type": "flow_prediction", "layout": "scheduler",
}  # fmt: skip
"""What the classes that move levels have in common. ``layout`` is ours: ``scheduler`` spaces the levels as
diffusers' schedulers do when they are asked for a number of steps, ``linear`` from 1 to 1 / steps, as its
pipelines for Flux, LTX or Qwen hand them over."""


def schedule(config: Config, request: Request) -> Schedule:
    """Points have alpha = 1 - sigma; the network is told num_train_timesteps * sigma.

    Explicit timesteps are told to the network as they are while the sigmas derived from them are shifted,
    which is diffusers' rule too; explicit sigmas beside them replace the derived ones. ``invert_sigmas`` is
    for networks that count time from noise to picture: they are told num_train_timesteps * (1 - sigma).
    """
    total = config["num_train_timesteps"]
    inverted = bool(config["invert_sigmas"])
    sigmas = _moved(config, request, _laid_out(config, request))
    if not np.all(np.diff(sigmas) < 0) or not np.all((sigmas > 0) & (sigmas <= 1)):
        raise BundleError(
            f"scheduler config: its shifts make the sigmas {sigmas.tolist()}, which must fall inside (0, 1]."
        )
    times = total * (1 - sigmas if inverted else sigmas)
    if request.timesteps is not None and not inverted:
        times = np.asarray(request.timesteps, np.float64)
    points = [Point(float(t), 1 - s, s) for t, s in zip(times, sigmas.tolist(), strict=True)]
    return Schedule(1.0, chained([*points, Point(float(total) if inverted else 0.0, 1.0, 0.0)]))


def _laid_out(config: Config, request: Request) -> Floats:
    """Return the sigmas before any shift, noisiest first."""
    total = config["num_train_timesteps"]
    if request.timesteps is not None:
        derived: Floats = falling("timesteps", request.timesteps, total) / total
        if request.sigmas is None:
            return derived
        if len(request.sigmas) != len(request.timesteps):
            raise InputError(
                f"sigmas: {len(request.sigmas)} were given for {len(request.timesteps)} timesteps; give one "
                "each."
            )
    if request.sigmas is not None:
        return falling("sigmas", request.sigmas, 1.0)
    if config["layout"] == "linear":
        return np.linspace(1, 1 / request.steps, request.steps)
    if config["layout"] != "scheduler":
        raise BundleError(
            f"scheduler config: layout {config['layout']!r} is unknown; use scheduler or linear."
        )
    ends = np.asarray([1.0, 1.0 / total])
    if not config["use_dynamic_shifting"]:
        # The ends are those of the training table, already shifted; they are shifted once more below.
        ends = shifted(ends, config["shift"])
    return np.linspace(ends[0], ends[1], request.steps)


def _moved(config: Config, request: Request, sigmas: Floats) -> Floats:
    """Shift, stretch and respace, in this order."""
    if config["use_dynamic_shifting"]:
        sigmas = shifted_by_size(config, sigmas, _size_shift(config, request))
    else:
        sigmas = shifted(sigmas, config["shift"])
    if config["shift_terminal"]:
        sigmas = stretched(sigmas, config["shift_terminal"])
    spread = respaced(config, sigmas, len(sigmas))
    return sigmas if spread is None else spread


def falling(name: str, values: Sequence[float], top: float) -> Floats:
    """Return a caller's own levels, or raise InputError if they do not fall strictly inside (0, top]."""
    levels = np.asarray(values, np.float64)
    inside = levels.ndim == 1 and len(levels) > 0 and np.all((levels > 0) & (levels <= top))
    if not inside or not np.all(np.diff(levels) < 0):
        raise InputError(f"{name}: {list(values)} must be numbers that fall strictly inside (0, {top:g}].")
    return levels


def shifted(sigmas: Floats, shift: float) -> Floats:
    """Return sigmas moved towards the noisy end by the factor ``shift``."""
    if not shift > 0:
        raise BundleError(f"scheduler config: shift is {shift!r}; it must be more than 0.")
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def shifted_by_size(config: Config, sigmas: Floats, mu: float) -> Floats:
    """Return sigmas moved by exp(mu), or by mu itself where ``time_shift_type`` is ``linear``."""
    kind = config["time_shift_type"]
    if kind not in ("exponential", "linear"):
        raise BundleError(
            f"scheduler config: time_shift_type {kind!r} is unknown; use exponential or linear."
        )
    factor = math.exp(mu) if kind == "exponential" else mu
    if not factor > 0:
        raise InputError(f"mu: it is {mu!r}, but a linear time shift takes numbers above 0.")
    moved: Floats = factor / (factor + (1 / sigmas - 1))
    return moved


def stretched(sigmas: Floats, terminal: float) -> Floats:
    """Return sigmas with their distance from 1 scaled so that the last one becomes ``terminal`` (LTX-Video).

    A lone sigma of 1 stays: nothing is left to scale, and diffusers divides 0 by 0 there.
    """
    if not 0 < terminal < 1:
        raise BundleError(f"scheduler config: shift_terminal is {terminal!r}; it must lie between 0 and 1.")
    if sigmas[-1] == 1:
        return sigmas
    scale = float(1 - sigmas[-1]) / (1 - terminal)
    return 1 - (1 - sigmas) / scale


def _size_shift(config: Config, request: Request) -> float:
    """Return mu as the caller gives it, or on the line through the configuration's two sizes."""
    if request.mu is not None:
        return request.mu
    if request.tokens is None:
        raise InputError(
            "mu: this model's levels depend on the size of the result; give tokens, or mu itself."
        )
    few, many = config["base_image_seq_len"], config["max_image_seq_len"]
    low, high = config["base_shift"], config["max_shift"]
    if few == many or low is None or high is None:
        raise BundleError(
            "scheduler config: use_dynamic_shifting needs base_shift, max_shift and two different sequence "
            "lengths (base_image_seq_len, max_image_seq_len)."
        )
    return float(low + (high - low) * (request.tokens - few) / (many - few))
