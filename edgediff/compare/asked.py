"""What a comparison draws, checked for every bundle before any work."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from edgediff import tasks
from edgediff.bundle import Bundle
from edgediff.errors import InputError
from edgediff.noise import checked_seed
from edgediff.prompt import checked_prompts
from edgediff.tasks.call import Call

MAX_BUNDLES = 8
MAX_PICTURES = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One bundle: ``letter`` (A is the reference), a name that tells it from the others, what it draws."""

    letter: str
    name: str
    bundle: Bundle
    call: Call


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked comparison. ``draws`` are prompts and seeds, one picture each; ``size`` is height, width."""

    entries: tuple[Entry, ...]
    draws: tuple[tuple[str, int], ...]
    size: tuple[int, int]
    arguments: dict[str, int]
    rounds: int


def checked(
    bundles: Sequence[tuple[str, Bundle]],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    rounds: int = 3,
) -> Asked:
    """Check that every bundle can draw the same prompts, at equal seeds, as pictures of one size.

    Args:
        bundles: what each was called, and the opened bundle; the first is the reference.
        steps, height, width: instead of each bundle's own.
        rounds: how often each bundle gets its turn.

    Raises:
        InputError: an argument is wrong, a bundle cannot draw from text alone, or the sizes differ.
    """
    if not 1 <= len(bundles) <= MAX_BUNDLES:
        raise InputError(f"compare: {len(bundles)} bundles were given; give 1 to {MAX_BUNDLES}.")
    if not 1 <= rounds <= 100:
        raise InputError(f"rounds: {rounds} is not a whole number from 1 to 100.")
    draws = tuple(product(checked_prompts(list(prompts)), [checked_seed(s, "torch") for s in seeds]))
    if not 1 <= len(draws) <= MAX_PICTURES:
        raise InputError(
            f"compare: {len(prompts)} prompts at {len(seeds)} seeds are {len(draws)} pictures of each "
            f"bundle; 1 to {MAX_PICTURES} are drawn."
        )
    given = {"num_inference_steps": steps, "height": height, "width": width}
    arguments = {name: value for name, value in given.items() if value is not None}
    names = labels([name for name, _ in bundles])
    entries = tuple(
        Entry(chr(ord("A") + i), name, bundle, _call(name, bundle, [p for p, _ in draws], arguments))
        for i, (name, (_, bundle)) in enumerate(zip(names, bundles, strict=True))
    )
    return Asked(entries, draws, _one_size(entries), arguments, rounds)


def labels(names: Sequence[str]) -> list[str]:
    """Return the shortest ends of paths that tell them apart, at most three folders each."""
    parts = [Path(name).absolute().parts if Path(name).exists() else (name,) for name in names]
    for length in (1, 2, 3):
        found = ["/".join(each[-length:]) for each in parts]
        if len(set(found)) == len(set(parts)):
            break
    return found


def _call(name: str, bundle: Bundle, prompts: list[str], arguments: dict[str, int]) -> Call:
    """Return the checked call of a bundle; what would be warned of is told by the process that draws."""
    if bundle.text is None or set(bundle.latents.downscale) != {"height", "width"}:
        raise InputError(f"{name}: compare is for pictures drawn from text, and this bundle draws none.")
    if bundle.tasks and "text2image" not in bundle.tasks:
        raise InputError(
            f"{name}: compare draws from text alone, and this bundle does {' and '.join(bundle.tasks)}."
        )
    if "decoder" not in bundle.components:
        raise InputError(f"{name}: compare needs pictures, and this bundle has no decoder.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            asked = tasks.checked(bundle, prompts, seed=0, **arguments)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return asked.call


def _one_size(entries: Sequence[Entry]) -> tuple[int, int]:
    sizes: dict[tuple[int, int], Entry] = {}
    for each in entries:
        sizes.setdefault((each.call.size["height"], each.call.size["width"]), each)
    if len(sizes) > 1:
        found = ", ".join(f"{e.letter} ({e.name}) {w}x{h}" for (h, w), e in sizes.items())
        raise InputError(
            f"compare: the bundles draw pictures of different sizes: {found}; give --height and --width."
        )
    return next(iter(sizes))
