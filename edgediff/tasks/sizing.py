"""What SDXL-type networks are told of sizes: of the original, its crop, and the result.

Podell et al. (2023), "SDXL", section 2.2. The refiner is told an aesthetic score, not the result's size.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TypedDict

from edgediff.bundle import Bundle
from edgediff.errors import InputError
from edgediff.tasks import request as check

Pair = tuple[int, int]
Ids = tuple[float, ...]

AESTHETIC_SCORE = 6.0
NEGATIVE_AESTHETIC_SCORE = 2.5
_MAX = 1 << 20


class Sized(TypedDict, total=False):
    """Arguments about sizes; :meth:`edgediff.Pipeline.__call__` says what each means."""

    original_size: Pair | None
    crops_coords_top_left: Pair | None
    target_size: Pair | None
    aesthetic_score: float | None
    negative_original_size: Pair | None
    negative_crops_coords_top_left: Pair | None
    negative_target_size: Pair | None
    negative_aesthetic_score: float | None


def checked(
    bundle: Bundle,
    size: Mapping[str, int],
    *,
    original_size: Pair | None = None,
    crops_coords_top_left: Pair | None = None,
    target_size: Pair | None = None,
    aesthetic_score: float | None = None,
    negative_original_size: Pair | None = None,
    negative_crops_coords_top_left: Pair | None = None,
    negative_target_size: Pair | None = None,
    negative_aesthetic_score: float | None = None,
) -> tuple[Ids, Ids]:
    """Return the numbers that the network is told for prompts and for negatives, in the bundle's order.

    Sizes are (height, width); those not given are the result's, the crop (0, 0). Where nothing is given for
    the negatives, they are told what the prompts are told, aesthetic scores excepted.

    Raises:
        InputError: a size is no pair of whole numbers.
    """
    given = {
        "original_size": (original_size, negative_original_size),
        "crops_coords_top_left": (crops_coords_top_left, negative_crops_coords_top_left),
        "target_size": (target_size, negative_target_size),
        "aesthetic_score": (aesthetic_score, negative_aesthetic_score),
    }
    _warn_of_unread(bundle, given)
    if not bundle.size_ids:
        return (), ()
    own = (size["height"], size["width"])
    told: dict[str, tuple[float, float]] = {}
    for name, axes, usual in (
        ("original_size", ("original_height", "original_width"), own),
        ("crops_coords_top_left", ("crop_top", "crop_left"), (0, 0)),
        ("target_size", ("target_height", "target_width"), own),
    ):
        positive, negative = given[name]
        first = usual if positive is None else _pair(name, positive)
        second = first if negative is None else _pair(f"negative_{name}", negative)
        told |= {axis: (first[i], second[i]) for i, axis in enumerate(axes)}
    scores = (
        _score("aesthetic_score", AESTHETIC_SCORE if aesthetic_score is None else aesthetic_score),
        _score(
            "negative_aesthetic_score",
            NEGATIVE_AESTHETIC_SCORE if negative_aesthetic_score is None else negative_aesthetic_score,
        ),
    )
    told["aesthetic_score"] = scores
    pairs = [told[name] for name in bundle.size_ids]
    return tuple(float(a) for a, _ in pairs), tuple(float(b) for _, b in pairs)


_READ_AS = {
    "original_size": "original_height",
    "crops_coords_top_left": "crop_top",
    "target_size": "target_height",
    "aesthetic_score": "aesthetic_score",
}


def _warn_of_unread(bundle: Bundle, given: Mapping[str, tuple[object, object]]) -> None:
    lost = [
        name
        for name, values in given.items()
        if _READ_AS[name] not in bundle.size_ids and any(value is not None for value in values)
    ]
    if lost:
        warnings.warn(f"{', '.join(lost)}: no effect, this model is not told that.", stacklevel=5)


def _pair(name: str, value: object) -> Pair:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise InputError(f"{name}: {value!r:.60} is not a pair of whole numbers, height (or top) first.")
    first, second = (check.whole(name, each, 0, _MAX) for each in value)
    return first, second


def _score(name: str, value: object) -> float:
    return check.number(name, value, 0, 100)
