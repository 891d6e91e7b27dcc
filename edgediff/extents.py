"""The sizes that a bundle's graphs take, where they were made for some sizes alone.

A graph takes any size of a dim that has a name, one size of a dim that is a number, and of named dims whose
extents are listed those alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from edgediff.bundle import Bundle, GraphSpec
from edgediff.errors import InputError

Size = Mapping[str, int]
"""Units of the result by axis; an axis that is missing may have any size."""


def sizes(bundle: Bundle) -> tuple[Size, ...]:
    """Return the sizes of results that denoiser and decoder both take, the default ones first; none are said
    where they take any."""
    found: tuple[Size, ...] = ()
    for role in ("denoiser", "controlled_denoiser", "decoder"):
        taken = [size for spec in bundle.components.get(role, ()) for size in _taken(bundle, spec)]
        if taken and {} not in taken:
            found = tuple(_both(found or ({},), taken))
    return found


def _both(ones: Sequence[Size], others: Sequence[Size]) -> Iterator[Size]:
    """Sizes of the first kind that agree with one of the second, each once, with what that one says more."""
    seen = set()
    for one in ones:
        for other in others:
            both = {**one, **other}
            key = tuple(sorted(both.items()))
            if _agree(one, other) and key not in seen:
                seen.add(key)
                yield both
                if one:
                    break


def _taken(bundle: Bundle, spec: GraphSpec) -> list[Size]:
    """The sizes that a graph takes, by its first input of the latents' rank, which is of their size."""
    axes, factors = bundle.latents.axes, bundle.latents.downscale
    dims = next((tensor.dims for tensor in spec.inputs if len(tensor.dims) == len(axes)), ())
    sided = [(axis, dim) for axis, dim in zip(axes, dims, strict=False) if axis in factors]
    fixed = {axis: dim * factors[axis] for axis, dim in sided if isinstance(dim, int)}
    free = {dim: axis for axis, dim in sided if isinstance(dim, str)}
    listed = [
        {free[dim]: extent * factors[free[dim]] for dim, extent in each.items() if dim in free}
        for each in spec.extents
    ]
    return [fixed | each for each in listed or [{}]]


def _agree(one: Size, other: Size) -> bool:
    return all(one[axis] == other[axis] for axis in one.keys() & other.keys())


def check(bundle: Bundle, asked: Size) -> None:
    """Refuse a size that the graphs of a bundle do not take.

    Raises:
        InputError: the message names the sizes that they take.
    """
    known = sizes(bundle)
    if known and not any(_agree(each, asked) for each in known):
        more = f" and {len(known) - 8} more" if len(known) > 8 else ""
        raise InputError(
            f"{told(asked)} was asked for; the graphs of this bundle were made for "
            f"{' or '.join(told(each) for each in known[:8])}{more} alone. Ask for that, let fit bring a "
            "picture there, or export the model for another size."
        )


def nearest(bundle: Bundle, wanted: dict[str, int]) -> dict[str, int]:
    """Return ``wanted``, or the size that the graphs take whose shape is most like it, then whose area is."""
    known = sizes(bundle)
    if not known or any(_agree(each, wanted) for each in known):
        return wanted
    return min(({**wanted, **each} for each in known), key=lambda each: _distance(each, wanted))


def _distance(one: Size, other: Size) -> tuple[float, float]:
    ratios = [math.log(one[axis] / other[axis]) for axis in other]
    return round(max(ratios) - min(ratios), 9), abs(sum(ratios))


def told(size: Size) -> str:
    """Return a size as messages have it: pictures as width and height."""
    if size.keys() == {"height", "width"}:
        return f"{size['width']}x{size['height']}"
    return " and ".join(f"{axis} {extent}" for axis, extent in size.items())


def fits(extents: Sequence[Mapping[str, int]], bound: Mapping[str, int]) -> bool:
    """Return whether named dims may have these values together."""
    return not extents or any(
        all(each.get(dim, value) == value for dim, value in bound.items()) for each in extents
    )
