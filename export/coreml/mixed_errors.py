"""How much each layer, or block of layers, does to what is drawn when it alone is coded.

One or a few widths are measured. For others an error is taken to be as many times larger as the noise of the
weights is (what small changes do is proportional to their power), corrected for each network and width by a
sample of its groups that is measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log10

from edgediff.export.coreml.mixed_plan import FLOAT, PALETTES
from edgediff.export.coreml.mixed_trials import DecodedTrials, as_choices
from edgediff.export.coreml.mixed_units import Group, coded_layers, depth_for
from edgediff.export.families.parts import Part
from edgediff.export.quantize.budget import work_of
from edgediff.export.quantize.drawings import PICTURES, Drawings, Walk, cost, shortest
from edgediff.export.quantize.sensitivity import BUDGET, PICTURE_BUDGET
from edgediff.export.quantize.units import searched

Say = Callable[[str], None]
_WIDTHS = ("palette-6", "palette-2", "palette-4")  # measured, the first where the budget is small
_PROMPTS = 16
_SAMPLE = 8  # groups of a network that are measured under every scheme
_TINY = 1e-15


@dataclass(frozen=True, slots=True)
class Course:
    """What is tried: the ``widths`` that are measured and the depth of groups, both by role, drawn so."""

    walk: Walk
    widths: Mapping[str, Sequence[str]]
    depths: Mapping[str, int | None]

    @property
    def coarse(self) -> bool:
        """Whether layers of what draws are looked at in blocks, or in shortened walks."""
        return any(depth is not None for role, depth in self.depths.items() if role not in PICTURES)


@dataclass(frozen=True, slots=True)
class Measured:
    """A group, and the error of each of its options; that of ``FLOAT`` is 0."""

    group: Group
    errors: Mapping[str, float]


def course_of(trials: DecodedTrials, prompt: str, budget: float = BUDGET) -> Course:
    """As fine as a budget of floating-point operations allows.

    Every layer under up to three schemes in whole walks of several prompts, or under one in a whole walk, or
    blocks under one in two steps.
    """
    parts = searched(trials.model)
    counts = {part.role: len(coded_layers(part.graph)) for part in parts}
    drawing = [part for part in parts if part.role not in PICTURES]
    whole = max(1.0, sum(counts[part.role] for part in drawing) * cost(trials, prompt, Walk(1, None)))
    widths: dict[str, Sequence[str]] = {}
    depths: dict[str, int | None] = {part.role: None for part in parts}
    if whole <= budget:
        count = max(1, min(len(_WIDTHS), int(budget / (whole * _PROMPTS))))
        walk = Walk(max(1, min(_PROMPTS, int(budget / (whole * count)))), None)
    else:
        count, walk = 1, shortest(trials, prompt)
        each = cost(trials, prompt, walk)
        for part in drawing:
            affordable = int(budget * _share(part, drawing) / each) - _SAMPLE * (len(PALETTES) - 1)
            depths[part.role] = depth_for(part, max(_SAMPLE, affordable))
    work = work_of(trials.model)
    for part in parts:
        widths[part.role] = _WIDTHS[:count]
        if part.role in PICTURES:
            each = work[part.role] / 4  # a pass over the part of a picture that is looked at
            affordable = int(PICTURE_BUDGET / each)
            widths[part.role] = _WIDTHS[: max(1, min(len(_WIDTHS), affordable // max(1, counts[part.role])))]
            depths[part.role] = depth_for(part, max(1, affordable))
    return Course(walk, widths, depths)


def measure(drawings: Drawings, groups: Sequence[Group], course: Course, say: Say) -> list[Measured]:
    """The error of every option of every group."""
    found: list[Measured] = []
    for role in dict.fromkeys(group.role for group in groups):
        own = [group for group in groups if group.role == role]
        kind = "layers" if course.depths[role] is None else "blocks"
        say(f"measuring how sensitive {len(own)} {kind} of {role} are")
        found += _Network(drawings, own, course.widths[role]).measured()
    return found


class _Network:
    """The groups of one network, and what was measured of them."""

    def __init__(self, drawings: Drawings, groups: Sequence[Group], widths: Sequence[str]) -> None:
        self._drawings, self._groups, self._widths = drawings, groups, widths
        self._known: dict[tuple[str, str], float] = {}

    def measured(self) -> list[Measured]:
        for group in self._groups:
            for name in self._heard(group):
                self._error(group, name)
        schemes = dict.fromkeys(name for group in self._groups for name in group.options)
        offsets = {name: self._offset(name) for name in schemes if name not in (FLOAT, *self._widths)}
        return [
            Measured(group, {name: self._taken(group, name, offsets) for name in group.options})
            for group in self._groups
        ]

    def _heard(self, group: Group) -> list[str]:
        """The schemes under which a group is measured: one at least that changes its weights."""
        noisy = [name for name in group.options if group.noise[name] > 0]
        return [name for name in self._widths if name in noisy] or noisy[-1:]

    def _error(self, group: Group, name: str) -> float:
        key = (group.name, name)
        if key not in self._known:
            self._known[key] = self._drawings.error(as_choices({group.role: group.given(name)}))
        return self._known[key]

    def _taken(self, group: Group, name: str, offsets: Mapping[str, float]) -> float:
        if group.noise[name] == 0:
            return 0.0
        known = self._known.get((group.name, name))
        return self._derived(group, name) * offsets.get(name, 1.0) if known is None else known

    def _derived(self, group: Group, name: str) -> float:
        """By the noise of the weights, from the measured scheme whose noise is nearest."""
        noise = group.noise
        near = min(self._heard(group), key=lambda each: abs(log10(noise[each] / noise[name])))
        return self._known[group.name, near] * noise[name] / noise[near]

    def _offset(self, name: str) -> float:
        """By how much what is derived is too small, in the middle of a sample of groups."""
        able = [group for group in self._groups if group.noise.get(name, 0.0) > 0]
        sample = able[:: max(1, len(able) // _SAMPLE)][:_SAMPLE]
        ratios = []
        for group in sample:
            derived = self._derived(group, name)
            ratios.append(log10(max(self._error(group, name), _TINY) / max(derived, _TINY)))
        return 10 ** statistics.median(ratios) if ratios else 1.0


def _share(part: Part, among: Sequence[Part]) -> float:
    sizes = [sum(parameter.size for parameter in each.graph.parameters) for each in among]
    return sizes[list(among).index(part)] / sum(sizes)
