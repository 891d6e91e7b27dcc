"""How much each layer, or block of layers, does to the result when it alone is quantized.

Errors of single units are later added up, which holds while they are small and unlike each other; a search
corrects what it does not hold by measuring the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgediff.export.emit.integers import Choice
from edgediff.export.families.parts import Part
from edgediff.export.quantize.budget import work_of
from edgediff.export.quantize.drawings import PICTURES, Drawings, Walk, cost, shortest
from edgediff.export.quantize.trials import Trials
from edgediff.export.quantize.units import Unit, depth_for, searched, units_of

Say = Callable[[str], None]
BUDGET, PICTURE_BUDGET = 260e12, 20e12
"""Floating-point operations for all trials of what draws, and of each network of pictures."""
_PROMPTS = 8
_TRIED = 2  # options of a unit that are tried where not all can be


@dataclass(frozen=True, slots=True)
class Course:
    """What is tried: units, drawn so. ``coarse`` roles try fewer options of fewer units."""

    units: Sequence[Unit]
    walk: Walk
    coarse: frozenset[str]


@dataclass(frozen=True, slots=True)
class Measured:
    """A unit, and the error of each of its options; that of float is 0."""

    unit: Unit
    errors: Mapping[Choice, float]


def course_of(trials: Trials, prompt: str, budget: float = BUDGET) -> Course:
    """As fine as the budget allows: every layer and option in whole walks, or blocks in two steps."""
    parts = searched(trials.model)
    fine = {part.role: units_of(part, trials.spans.get(part.role, {})) for part in parts}
    wanted = {role: sum(len(unit.options) - 1 for unit in units) for role, units in fine.items()}
    drawing = [part for part in parts if part.role not in PICTURES]
    whole = sum(wanted[part.role] for part in drawing) * cost(trials, prompt, Walk(1, None))
    coarse = {
        role for role in PICTURES if role in fine and wanted[role] * _pass(trials, role) > PICTURE_BUDGET
    }
    if whole <= budget:
        walk = Walk(max(1, min(_PROMPTS, int(budget / max(whole, 1.0)))), None)
    else:
        walk = shortest(trials, prompt)
        coarse |= {part.role for part in drawing}
    units: list[Unit] = []
    for part in parts:
        if part.role not in coarse:
            units += fine[part.role]
            continue
        if part.role in PICTURES:
            most = PICTURE_BUDGET / _pass(trials, part.role)
        else:
            most = budget * _share(part, drawing) / cost(trials, prompt, walk)
        spans = trials.spans.get(part.role, {})
        units += units_of(part, spans, depth_for(part, spans, max(1, int(most) // _TRIED)))
    return Course(units, walk, frozenset(coarse))


def _pass(trials: Trials, role: str) -> float:
    """A pass of a network of pictures, on the part of a picture that is looked at: about a quarter."""
    return work_of(trials.model)[role] / 4


def _share(part: Part, among: Sequence[Part]) -> float:
    sizes = [sum(parameter.size for parameter in each.graph.parameters) for each in among]
    return sizes[list(among).index(part)] / sum(sizes)


def measure(drawings: Drawings, course: Course, say: Say) -> list[Measured]:
    """The error of every option of every unit.

    Coarse roles try ``int8-weights`` on the whole network alone: its share of the error of ``int4-weights``,
    which is noise of the same kind, is taken to be that of each unit.
    """
    found: list[Measured] = []
    for role in dict.fromkeys(unit.role for unit in course.units):
        units = [unit for unit in course.units if unit.role == role]
        rough = role in course.coarse
        say(f"measuring how sensitive {len(units)} {'blocks' if rough else 'layers'} of {role} are")
        ratio = _ratio(drawings, units) if rough else None
        found += [Measured(unit, _errors(drawings, unit, ratio)) for unit in units]
    return found


def _errors(drawings: Drawings, unit: Unit, ratio: float | None) -> dict[Choice, float]:
    errors: dict[Choice, float] = {"float": 0.0}
    derived = ratio is not None and {"int8-weights", "int4-weights"} <= set(unit.options)
    for choice in unit.options:
        if choice != "float" and not (derived and choice == "int8-weights"):
            errors[choice] = drawings.error({unit.role: unit.choices[choice]})
    if derived and ratio is not None:
        errors["int8-weights"] = ratio * errors["int4-weights"]
    return errors


def _ratio(drawings: Drawings, units: Sequence[Unit]) -> float | None:
    """The error of a network in 8 bits, as a share of that in 4 bits."""
    able = [unit for unit in units if {"int8-weights", "int4-weights"} <= set(unit.options)]
    if not able:
        return None
    errors = [
        drawings.error({able[0].role: {s: c for unit in able for s, c in unit.choices[choice].items()}})
        for choice in ("int8-weights", "int4-weights")
    ]
    return min(1.0, errors[0] / max(errors[1], 1e-30))
