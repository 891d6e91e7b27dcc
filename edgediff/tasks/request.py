"""Checks that tasks share. Every one raises InputError before anything is loaded."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence

import numpy as np

from edgediff.bundle import Bundle
from edgediff.errors import InputError
from edgediff.noise import Noise, PerPicture, TorchNoise, checked_seed
from edgediff.sampler import Array

MAX_STEPS = 1000
MAX_BATCH = 64
MAX_SIZE = 16384

Seeds = int | tuple[int, ...]


def whole(name: str, value: object, low: int, high: int) -> int:
    """Return ``value`` if it is an integer within bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= int(value) <= high:
        raise InputError(f"{name}: {value!r} is not a whole number from {low} to {high}.")
    return int(value)


def number(name: str, value: object, low: float, high: float) -> float:
    """Return ``value`` as a float if it is finite and within bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"{name}: {value!r} is not a number.")
    if not math.isfinite(value) or not low <= value <= high:
        raise InputError(f"{name}: {value!r} is not between {low:g} and {high:g}.")
    return float(value)


def seeds(seed: object, count: int) -> Seeds:
    """Return one seed for the whole batch or one per result; None draws one at random."""
    if seed is None:
        return secrets.randbelow(1 << 32)
    if isinstance(seed, (list, tuple)):
        if len(seed) != count:
            raise InputError(
                f"seed: {len(seed)} seeds were given for {count} results; give one, or one each."
            )
        return tuple(checked_seed(s) for s in seed)
    return checked_seed(seed)


def stream(seed: Seeds) -> Noise:
    """Return the noise of one seed, or of one per result."""
    return PerPicture([TorchNoise(s) for s in seed]) if isinstance(seed, tuple) else TorchNoise(seed)


def sizes(bundle: Bundle, asked: Mapping[str, int | None]) -> dict[str, int]:
    """Return the result's size by axis: as asked, else the bundle's default.

    Raises:
        InputError: a size is no multiple of the model's factor; the message names the nearest that is.
    """
    found: dict[str, int] = {}
    for axis, factor in bundle.latents.downscale.items():
        value = asked.get(axis)
        if value is None:
            value = bundle.defaults.size.get(axis)
            if value is None:
                raise InputError(f"{axis}: the bundle has no default; give one.")
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= MAX_SIZE:
            raise InputError(f"{axis}: {value!r} is not a whole number from {factor} to {MAX_SIZE}.")
        if value % factor:
            nearest = min(max(factor, round(value / factor) * factor), MAX_SIZE // factor * factor)
            raise InputError(f"{axis}: {value} is no multiple of {factor}; the nearest is {nearest}.")
        found[axis] = int(value)
    return found


def latent_shape(bundle: Bundle, batch: int, size: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of the latents, axes in the bundle's order."""
    rest = {axis: value // bundle.latents.downscale[axis] for axis, value in size.items()}
    known = {"batch": batch, "channels": bundle.latents.channels, **rest}
    return tuple(known[axis] for axis in bundle.latents.axes)


def start_latents(latents: object, shape: tuple[int, ...]) -> Array:
    """Return given start latents as native, contiguous float32."""
    array = np.asarray(latents)
    if array.dtype.kind != "f" or array.shape != shape or not np.isfinite(array).all():
        raise InputError(
            f"latents: expected finite floats of shape {shape}, found {array.dtype} {array.shape}."
        )
    return np.ascontiguousarray(array, np.float32)


def chosen_steps(
    steps: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None
) -> None:
    """Refuse more than one way of saying how many steps."""
    given = [
        n
        for n, v in (("num_inference_steps", steps), ("timesteps", timesteps), ("sigmas", sigmas))
        if v is not None
    ]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: give one of them.")
