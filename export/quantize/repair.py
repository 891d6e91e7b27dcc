"""Layers that do not stand 8-bit activations keep float ones.

One scale for a whole tensor is too coarse where some channels are large and others carry what matters. No
statistic of a tensor tells so: it is seen in what the network gives. Where a network falls too far when all
its layers compute in int8, each is tried alone, and the worst get 8-bit weights beside float activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgediff.export.emit.integers import Choice, Span
from edgediff.export.families.parts import Model
from edgediff.export.quantize.drawings import PICTURES, Drawings, Walk, cost, decibel, shortest
from edgediff.export.quantize.plan import Decision, Plan
from edgediff.export.quantize.prompts import CAPTIONS
from edgediff.export.quantize.trials import Trials
from edgediff.export.quantize.units import searched

Say = Callable[[str], None]
HELD = dict.fromkeys(PICTURES, 30.0)
"""Decibel, of what a network gives for pictures, beside its largest range: below it layers are looked at."""
_DRAWN = 25.0  # of the final latents, for networks that draw
_BUDGET = (
    8e12  # floating-point operations that a drawing may take to be looked at here; the receipt looks at all
)
_TURNS = 3


def repaired(
    parent: Path,
    model: Model,
    plan: Plan,
    spans: Mapping[str, Mapping[int, Span]],
    vnni: Mapping[str, frozenset[str]],
    *,
    prompts: Sequence[str] | None = None,
    report: Say | None = None,
) -> Plan:
    """The plan in which every network holds its ratio, if float activations can make it do so.

    ``parent`` is the float bundle, left as it was found; ``spans`` are those of calibration.
    """
    say = report if report is not None else _silent
    roles = [p.role for p in searched(model) if "int8" in plan.choices(p.role).values()]
    if not roles:
        return plan
    trials = Trials(parent, model, spans, vnni)
    words = list(CAPTIONS if prompts is None else prompts)
    walk = Walk(1, None, guided=False)
    small = cost(trials, words[0], walk) <= _BUDGET
    drawings = Drawings(trials, words, walk if small else shortest(trials, words[0]))
    try:
        for role in roles:
            if role in PICTURES or small:
                plan = _held(drawings, plan, role, HELD.get(role, _DRAWN), say)
    finally:
        drawings.close()
        trials.close()
    return plan


def _held(drawings: Drawings, plan: Plan, role: str, floor: float, say: Say) -> Plan:
    choices = plan.choices(role)
    reached = decibel(drawings.error({role: choices}))
    if reached >= floor:
        return plan
    say(f"{role}: {reached:.0f} dB when all its layers compute in int8; trying each alone")
    layers = [scope for scope, choice in choices.items() if choice == "int8"]
    alone = {scope: drawings.error({role: {scope: "int8"}}) for scope in layers}
    bound, eased = 10 ** (-floor / 10), dict[str, Choice]()
    for _ in range(_TURNS):
        bound /= 2  # errors add up, and some are not seen alone
        eased = _worst(alone, bound)
        reached = decibel(drawings.error({role: choices | eased}))
        if reached >= floor:
            break
    say(f"{role}: {reached:.0f} dB with float activations in {len(eased)} of {len(layers)} layers")
    told = {
        scope: Decision(choice, f"computed in int8 it alone leaves {decibel(alone[scope]):.0f} dB")
        for scope, choice in eased.items()
    }
    # Graphs of one folder share their weights file, so each says the same of a layer.
    shared = {each: {**said, **{s: d for s, d in told.items() if s in said and _same(plan, role, each, s)}}
              for each, said in plan.layers.items()}  # fmt: skip
    return replace(plan, layers=shared)


def _worst(alone: Mapping[str, float], bound: float) -> dict[str, Choice]:
    """The layers of the largest errors, so many that the sum of the others is within ``bound``."""
    eased: dict[str, Choice] = {}
    left = sum(alone.values())
    for scope in sorted(alone, key=lambda each: -alone[each]):
        if left <= bound:
            break
        eased[scope] = "int8-weights"
        left -= alone[scope]
    return eased


def _same(plan: Plan, role: str, other: str, scope: str) -> bool:
    """Whether two graphs are forms of one network: they name the same layers in their way."""
    if role == other:
        return True
    mine, theirs = plan.layers[role], plan.layers[other]
    return {role, other} == {"denoiser", "controlled_denoiser"} and scope in mine and scope in theirs


def _silent(line: str) -> None:
    """Report nothing."""
