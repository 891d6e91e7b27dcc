"""Levels of variance-preserving families that stand on whole training timesteps: DDIM, DDPM, PNDM, ..."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgediff.errors import BundleError, InputError
from edgediff.schedule import Config, Point, Request, alphas_cumprod, checked_timesteps, spaced


def refuse(request: Request, *names: str) -> None:
    """Refuse custom lists that the family's diffusers class does not take."""
    for name in names:
        if getattr(request, name) is not None:
            raise InputError(f"{name}: this sampler takes no {name}; drop them or name another sampler.")


def points(config: Config) -> Callable[[float], Point]:
    """Return what gives a whole timestep's variance-preserving point.

    Below timestep 0 lies the clean sample, or the cleanest training step without ``set_alpha_to_one``.
    """
    products = alphas_cumprod(config)
    final = 1.0 if config.get("set_alpha_to_one", True) else float(products[0])

    def point(t: float) -> Point:
        if t >= len(products):
            raise BundleError(
                f"scheduler config: timestep {t:g} is outside the {len(products)} trained ones "
                "(steps_offset?)."
            )
        product = float(products[int(t)]) if t >= 0 else final
        return Point(float(t), product**0.5, (1 - product) ** 0.5)

    return point


def whole_timesteps(config: Config, request: Request) -> tuple[float, ...]:
    """Return the caller's timesteps, or the spaced ones, rounded; noisiest first."""
    total = config["num_train_timesteps"]
    if request.timesteps is not None:
        return checked_timesteps(request.timesteps, total)
    if request.steps > total:
        raise InputError(f"steps: {request.steps} were asked for, but the network knows {total} timesteps.")
    return tuple(float(t) for t in np.round(spaced(config, request.steps)))
