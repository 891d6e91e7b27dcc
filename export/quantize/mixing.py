"""From how sensitive units are to what each gets: the fewest bytes, or the least error, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from edgediff.export.emit.integers import Choice
from edgediff.export.emit.sizes import sizes
from edgediff.export.families.parts import Model
from edgediff.export.quantize.drawings import PICTURES
from edgediff.export.quantize.extents import default_extents
from edgediff.export.quantize.knapsack import Option, least, least_under_two
from edgediff.export.quantize.positions import layers_of, weight_of
from edgediff.export.quantize.sensitivity import Measured
from edgediff.export.quantize.tune import Tuned
from edgediff.export.quantize.units import Unit

LATENTS = "latents"
TIMED = "denoiser"
"""The role whose passes a bound on seconds is for."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a plan must hold: ``min_psnr`` in dB, ``bytes`` of all weights, ``seconds`` of a pass."""

    min_psnr: float | None = None
    bytes: float | None = None
    seconds: float | None = None


Picked = dict[tuple[str, str], Choice]
"""A choice by the role and name of a unit."""


def domain_of(unit: Unit) -> str:
    """What a unit's errors are errors of: the latents, or what one network of pictures gives."""
    return unit.role if unit.role in PICTURES else LATENTS


class Mixer:
    """Chooses among what was measured. ``tuned`` has the seconds of the denoiser's layers, where given."""

    def __init__(self, model: Model, measured: Sequence[Measured], tuned: Tuned | None = None) -> None:
        self.measured = measured
        self.domains = tuple(dict.fromkeys(domain_of(each.unit) for each in measured))
        self._seconds = {} if tuned is None else tuned.seconds.get(TIMED, {})
        self._work = _work(model)

    def of(self, domains: Iterable[str]) -> list[Measured]:
        """What was measured of some domains."""
        wanted = set(domains)
        return [each for each in self.measured if domain_of(each.unit) in wanted]

    def smallest(self, domain: str, error: float, seconds: float | None = None) -> Picked | None:
        """The fewest bytes at this error; then, in the same bytes, int8 where it saves most for its error.

        None where nothing is so fast.
        """
        among = self.of([domain])
        items = [[Option(m.unit.bytes[c], m.errors[c]) for c in m.unit.options] for m in among]
        picked = self._solved(among, items, error, seconds)
        return None if picked is None else self._computing(among, picked, error)

    def best(self, limit: float, seconds: float | None = None) -> Picked | None:
        """The least error in these bytes, which are those of the units alone; None where nothing fits."""
        items = [[Option(m.errors[c], m.unit.bytes[c]) for c in m.unit.options] for m in self.measured]
        return self._solved(self.measured, items, limit, seconds)

    def quickest(self, seconds: float) -> Picked | None:
        """The least error of the denoiser's units in these seconds, whatever bytes they take."""
        among = [each for each in self.measured if each.unit.role == TIMED]
        items = [[Option(m.errors[c], self.seconds(m.unit, c)) for c in m.unit.options] for m in among]
        return self._solved(among, items, seconds, None)

    def seconds(self, unit: Unit, choice: Choice) -> float:
        """What a unit takes of a pass of the denoiser; nothing if it is another network's, or not timed."""
        if unit.role != TIMED:
            return 0.0
        given = unit.choices[choice]
        return sum(self._seconds.get(scope, {}).get(got, 0.0) for scope, got in given.items())

    def total(self, picked: Picked, figure: Callable[[Measured, Choice], float]) -> float:
        """A figure of all units that something was picked for."""
        by_name = {(each.unit.role, each.unit.name): each for each in self.measured}
        return sum(figure(by_name[key], choice) for key, choice in picked.items())

    def _solved(
        self,
        among: Sequence[Measured],
        items: Sequence[Sequence[Option]],
        bound: float,
        seconds: float | None,
    ) -> Picked | None:
        if seconds is None:
            chosen = least(items, bound)
        else:
            times = [[self.seconds(m.unit, c) for c in m.unit.options] for m in among]
            chosen = least_under_two(items, bound, times, seconds)
        if chosen is None:
            return None
        pairs = zip(among, chosen, strict=True)
        return {(m.unit.role, m.unit.name): m.unit.options[i] for m, i in pairs}

    def _computing(self, among: Sequence[Measured], picked: Picked, error: float) -> Picked:
        """Let layers whose weights are 8-bit compute in int8, the most work for the least error first."""
        spare = error - self.total(picked, lambda m, c: m.errors[c])
        able = []
        for each in among:
            key = (each.unit.role, each.unit.name)
            if picked[key] == "int8-weights" and "int8" in each.unit.options:
                more = max(0.0, each.errors["int8"] - each.errors["int8-weights"])
                done = sum(self._work.get((each.unit.role, scope), 0) for scope in each.unit.choices["int8"])
                able.append((more / max(done, 1), more, key, each.unit.bytes))
        result = dict(picked)
        for _, more, key, taken in sorted(able):
            if more <= spare and taken["int8"] <= taken["int8-weights"]:
                result[key] = "int8"
                spare -= more
        return result


def choices_of(picked: Picked, units: Iterable[Unit]) -> dict[str, dict[str, Choice]]:
    """By role and layer, what the units that something was picked for get."""
    found: dict[str, dict[str, Choice]] = {}
    for unit in units:
        choice = picked.get((unit.role, unit.name))
        if choice is not None:
            found.setdefault(unit.role, {}).update(unit.choices[choice])
    return found


def _work(model: Model) -> Mapping[tuple[str, str], int]:
    """Multiplications of a pass, by role and layer."""
    found = {}
    for part in model.parts:
        extents = sizes(part.graph, default_extents(model, part))
        for node in layers_of(part.graph):
            found[part.role, node.scope] = weight_of(node).size * prod(extents[node.output.id])
    return found
