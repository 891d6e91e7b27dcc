"""What a call may leave out to be faster or smaller: the full decoder, whole decodes, guidance, passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from edgediff import guidance_interval as intervals
from edgediff import latents, tiling
from edgediff import step_cache as reuse
from edgediff.bundle import Bundle
from edgediff.errors import InputError, UnsupportedError
from edgediff.schedule import Schedule
from edgediff.tasks import request as check


class Saving(TypedDict, total=False):
    """Arguments that :meth:`edgediff.Pipeline.__call__` explains."""

    decoder: str
    tile_decode: str | int
    guidance_interval: Sequence[float] | None
    step_cache: int | None


@dataclass(frozen=True, slots=True)
class Savings:
    """``tile`` is pixels of a side, ``auto`` (whoever budgets memory decides) or None for whole decodes.

    ``interval`` are shares of the steps in which guidance is applied; ``every`` is the number of steps from
    one whole pass of the network to the next, 1 for no others.
    """

    decoder: str = "full"
    tile: int | str | None = "auto"
    interval: tuple[float, float] | None = None
    every: int = 1

    @property
    def loaded_early(self) -> tuple[str, ...]:
        """The decoder's role, where it can be loaded before its size is known."""
        role = "tiny_decoder" if self.decoder == "tiny" else "decoder"
        return () if isinstance(self.tile, int) else (role,)


def checked(
    bundle: Bundle,
    schedule: Schedule,
    guided: bool,
    steered: bool,
    batch: int,
    *,
    decoder: str = "full",
    tile_decode: str | int = "auto",
    guidance_interval: Sequence[float] | None = None,
    step_cache: int | None = None,
) -> Savings:
    """Check what a call leaves out; ``schedule`` is the one that is walked.

    Raises:
        InputError: an argument is wrong, or has nothing to act on. UnsupportedError: the bundle cannot.
    """
    role, _ = latents.chosen(bundle, decoder)
    return Savings(
        decoder,
        _tile(bundle, role, tile_decode),
        _interval(bundle, schedule, guided, batch, guidance_interval),
        _every(bundle, schedule, steered, step_cache),
    )


def _tile(bundle: Bundle, role: str, asked: str | int) -> int | str | None:
    if isinstance(asked, str) and asked.strip().isdigit():
        asked = int(asked)
    if asked == "auto":
        return "auto"
    if asked == "off":
        return None
    tile = tiling.checked(asked, bundle.latents.downscale)
    specs = bundle.components.get(role, ())
    if specs and all(spec.inputs and not any(_free(d) for d in spec.inputs[0].dims[2:]) for spec in specs):
        raise UnsupportedError(
            f"tile_decode: the {role} of {bundle.path} was made for one size alone; export the "
            "model with open sizes."
        )
    return tile


def _free(dim: object) -> bool:
    return isinstance(dim, str)


def _interval(
    bundle: Bundle, schedule: Schedule, guided: bool, batch: int, asked: Sequence[float] | None
) -> tuple[float, float] | None:
    if asked is None:
        return None
    if isinstance(asked, str) or not isinstance(asked, Sequence) or len(asked) != 2:
        raise InputError(
            f"guidance_interval: {asked!r} is no pair of shares of the steps, such as (0.2, 0.8)."
        )
    low, high = (check.number("guidance_interval", each, 0, 1) for each in asked)
    if low >= high:
        raise InputError(f"guidance_interval: {low:g} is not below {high:g}.")
    if not guided:
        raise InputError(
            "guidance_interval: nothing is guided here; it needs a guidance_scale above 1, and a model that "
            "was not distilled with guidance."
        )
    if not intervals.steps_of(schedule, low, high):
        raise InputError(
            f"guidance_interval: no step of {len(schedule.hops)} lies between the shares {low:g} and "
            f"{high:g}; widen it, or ask for guidance_scale 1."
        )
    for spec in bundle.components.get("denoiser", ()):
        rows = spec.inputs[0].dims[0] if spec.inputs else None
        if isinstance(rows, int) and batch % rows:
            raise UnsupportedError(
                f"guidance_interval: a form of the denoiser takes {rows} rows at once, and steps without "
                f"guidance have {batch}; export the model with --batch 1."
            )
    return low, high


def _every(bundle: Bundle, schedule: Schedule, steered: bool, asked: int | None) -> int:
    if asked is None or asked == 1:
        return 1
    every = check.whole("step_cache", asked, 1, reuse.MOST)
    reuse.check(bundle, schedule, every, steered)
    return every
