"""Checks that tasks share. Every one raises InputError before anything is loaded."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence

import numpy as np

from edgediff import extents
from edgediff.bundle import Bundle
from edgediff.errors import InputError
from edgediff.noise import SOURCES, Noise, PerPicture, checked_seed
from edgediff.noise import stream as noise_stream
from edgediff.sampler import Array, Solver
from edgediff.schedule import Request as Steps
from edgediff.schedule import Schedule

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


def strength(value: object) -> float:
    """Return a strength: above 0 (nothing would be done) and at most 1 (nothing of the picture is kept)."""
    found = number("strength", value, 0, 1)
    if found == 0:
        raise InputError("strength: 0 would return the picture as it is; give more, up to 1.")
    return found


def cut_by_strength(schedule: Schedule, steps: Steps, share: object) -> Schedule:
    """Leave the first hops out, as diffusers does: of n steps, the last int(n * strength) are walked."""
    found = strength(share)
    asked = steps.timesteps if steps.timesteps is not None else steps.sigmas
    count = steps.steps if asked is None else len(asked)
    count = min(count, len(schedule.hops))
    walked = min(int(count * found), count)
    if walked < 1:
        raise InputError(
            f"strength: {found:g} of {count} steps is none; ask for at least "
            f"{math.ceil(1 / found)} steps, or for more strength."
        )
    return schedule.cut(count - walked)


def part_way(schedule: Schedule, solver: Solver, start: object, end: object) -> Schedule:
    """Cut a schedule where diffusers' ``denoising_start`` and ``denoising_end`` do: by training timestep.

    Both are shares of the whole denoising, 0 to 1.
    """
    if start is None and end is None:
        return schedule
    total = solver.config.get("num_train_timesteps")
    if total is None or any(not 0 <= here.t <= total for here, _ in schedule.hops):
        raise InputError(f"denoising_start, denoising_end: {solver.name} has no timesteps to cut at.")
    first, last = 0, len(schedule.hops)
    if start is not None:
        cutoff = round(total - number("denoising_start", start, 0, 1) * total)
        first = sum(here.t >= cutoff for here, _ in schedule.hops)
    if end is not None:
        cutoff = round(total - number("denoising_end", end, 0, 1) * total)
        last = sum(here.t >= cutoff for here, _ in schedule.hops)
    if first >= last:
        raise InputError(
            f"denoising_start {start}, denoising_end {end}: no step of {len(schedule.hops)} lies between."
        )
    return schedule.cut(first, last)


def embeddings(name: str, value: object, axes: tuple[str, ...] = ("prompts", "tokens", "width")) -> Array:
    """Return prompt embeddings, or the pooled vectors beside them, as native float32."""
    array = np.asarray(value)
    sound = array.dtype.kind == "f" and array.ndim == len(axes) and 0 not in array.shape
    if not sound or not np.isfinite(array).all():
        raise InputError(
            f"{name}: expected finite floats of shape ({', '.join(axes)}), found {array.dtype} {array.shape}."
        )
    if len(array) > MAX_BATCH:
        raise InputError(f"{name}: {len(array)} prompts; at most {MAX_BATCH} are drawn in one call.")
    return np.ascontiguousarray(array, np.float32)


def seeds(seed: object, count: int, source: str = "torch") -> Seeds:
    """Return one seed for the whole batch or one per result; None draws one at random."""
    if source not in SOURCES:
        raise InputError(f"noise: {source!r} is unknown; choose one of {', '.join(SOURCES)}.")
    if seed is None:
        return secrets.randbelow(1 << 32)
    if isinstance(seed, (list, tuple)):
        if len(seed) != count:
            raise InputError(
                f"seed: {len(seed)} seeds were given for {count} results; give one, or one each."
            )
        return tuple(checked_seed(s, source) for s in seed)
    return checked_seed(seed, source)


def stream(seed: Seeds, source: str = "torch") -> Noise:
    """Return the noise of one seed, or of one per result."""
    if isinstance(seed, tuple):
        return PerPicture([noise_stream(source, s) for s in seed])
    return noise_stream(source, seed)


def sizes(bundle: Bundle, asked: Mapping[str, int | None]) -> dict[str, int]:
    """Return the result's size by axis: as asked, else the bundle's default.

    Raises:
        InputError: a size is no multiple of the model's factor; the message names the nearest that is. Or
            the bundle's graphs were made for other sizes; the message names them.
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
    extents.check(bundle, found)
    return found


_ASKED = {
    "text2image": "give a prompt alone",
    "image2image": "give an image",
    "inpaint": "give an image and a mask_image",
    "instruct": "give an image and say what to change",
}


def task(bundle: Bundle, name: str) -> None:
    """Refuse a task that the model was not made for."""
    if bundle.tasks and name not in bundle.tasks:
        ways = "; ".join(f"{each} ({_ASKED[each]})" if each in _ASKED else each for each in bundle.tasks)
        raise InputError(f"this model does not do {name}. It does: {ways}.")


def encoder(bundle: Bundle) -> None:
    """Refuse to start from a picture where the bundle cannot encode one."""
    if "encoder" not in bundle.components:
        raise InputError(f"image: {bundle.path} has no encoder, so it cannot start from a picture.")


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
