"""A plan as a file: a recipe that says for each layer of a model what it gets, and that other models can use.

``edgediff-plan/1`` is a JSON object of ``format``, ``scheme`` and ``layers`` (choice by role and scope), and
perhaps ``kinds`` (what operation each layer is, compared where it is said), ``reasons``, ``made_for``,
``floor`` and ``sensitivity``, which are for readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgediff.errors import InputError
from edgediff.export.families.parts import Model
from edgediff.export.json_files import dump_json, parse_json
from edgediff.export.quantize.plan import CHOICES, SCHEMES, Decision, Plan
from edgediff.export.quantize.plan_values import (
    NAME,
    listed,
    numbers,
    read_bytes,
    sensitivity,
    shown,
    table,
    words,
)
from edgediff.export.quantize.positions import layers_of

FORMAT = "edgediff-plan/1"
FILE = "quantization.json"
_UNSAID = "as the recipe says"


def to_json(plan: Plan) -> bytes:
    """The plan as the bytes of its file; equal plans give equal bytes."""
    return dump_json(
        {
            "format": FORMAT,
            "scheme": plan.scheme,
            "made_for": dict(plan.made_for),
            "floor": dict(plan.floor),
            "layers": {role: plan.choices(role) for role in plan.layers},
            "kinds": {role: dict(kinds) for role, kinds in plan.kinds.items()},
            "reasons": _reasons(plan),
            "sensitivity": {
                role: {scope: dict(ratios) for scope, ratios in layers.items()}
                for role, layers in plan.sensitivity.items()
            },
        }
    )


def _reasons(plan: Plan) -> dict[str, dict[str, list[str]]]:
    """Scopes by reason: there are few reasons and many layers."""
    found: dict[str, dict[str, list[str]]] = {}
    for role, decisions in plan.layers.items():
        for scope, decision in decisions.items():
            found.setdefault(role, {}).setdefault(decision.reason, []).append(scope)
    return found


def read_plan(path: Path | str) -> Plan:
    """The plan in a file.

    Raises:
        InputError: there is no such file, it is too large, is not JSON, is of another format, or says what no
            plan can say.
        SourceError: it is not such JSON as this program writes.
    """
    return parse_plan(read_bytes(Path(path)), str(Path(path)))


def parse_plan(data: bytes, where: str) -> Plan:
    """The plan in some bytes; see :func:`read_plan`."""
    root = parse_json(data, where)
    found = root.get("format")
    if found != FORMAT:
        raise InputError(
            f"{where}: its format is {shown(found)}; this edgediff reads plans of {FORMAT}. "
            f"'edgediff export --quantize' writes one as {FILE}."
        )
    scheme = root.get("scheme")
    if scheme not in SCHEMES:
        raise InputError(f"{where}: scheme {shown(scheme)} is unknown; known are {', '.join(SCHEMES)}.")
    layers = words(root.get("layers"), f"{where}: layers")
    reasons = {
        role: _inverted(table(each, f"{where}: reasons.{role}"))
        for role, each in table(root.get("reasons", {}), f"{where}: reasons").items()
    }
    decided: dict[str, dict[str, Decision]] = {}
    for role, choices in layers.items():
        said = reasons.get(role, {})
        decided[role] = {}
        for scope, choice in choices.items():
            if choice not in CHOICES:
                raise InputError(
                    f"{where}: {role}: {scope[:NAME]} gets {shown(choice)}; a layer can get "
                    f"{', '.join(CHOICES)}."
                )
            decided[role][scope] = Decision(choice, said.get(scope, _UNSAID)[:NAME])
    return Plan(
        scheme,
        decided,
        kinds=words(root.get("kinds", {}), f"{where}: kinds"),
        made_for=table(root.get("made_for", {}), f"{where}: made_for"),
        floor=numbers(root.get("floor", {}), f"{where}: floor"),
        sensitivity=sensitivity(root.get("sensitivity", {}), f"{where}: sensitivity"),
    )


def _inverted(reasons: Mapping[str, Any]) -> dict[str, str]:
    """Reasons by scope; what is no list of names says nothing."""
    return {
        scope: reason
        for reason, scopes in reasons.items()
        if isinstance(scopes, list)
        for scope in scopes
        if isinstance(scope, str)
    }


def fitted(plan: Plan, model: Model, where: str = "the plan") -> Plan:
    """A plan that was made for one model, for another of the same architecture, such as a fine-tune.

    Every layer that the plan names must be there and be the same kind of layer. What it does not mention
    stays float; a second form of a network (one that is steered, say) takes what is said of the first.

    Raises:
        InputError: a layer is missing, is of another kind, cannot have its choice, or gets two.
    """
    _check_roles(plan, model, where)
    said = _by_folder(plan, model, where)
    decided: dict[str, dict[str, Decision]] = {}
    kinds: dict[str, dict[str, str]] = {}
    unmentioned = Decision("float", "the recipe does not mention it")
    for part in model.parts:
        nodes = layers_of(part.graph)
        kinds[part.role] = {node.scope: node.op for node in nodes}
        _check_layers(plan, part.role, kinds[part.role], where)
        given = said.get(part.folder, {})
        decided[part.role] = {node.scope: given.get(node.scope, unmentioned) for node in nodes}
    return Plan(plan.scheme, decided, kinds, plan.made_for, plan.floor, plan.sensitivity)


def _check_roles(plan: Plan, model: Model, where: str) -> None:
    present = {part.role for part in model.parts}
    missing = [role for role in plan.layers if role not in present]
    if missing:
        raise InputError(
            f"{where}: is for a model with {', '.join(missing)}; this one has {', '.join(sorted(present))}. "
            "Make a plan for this model, or take those layers out of it."
        )


def _by_folder(plan: Plan, model: Model, where: str) -> dict[str, dict[str, Decision]]:
    said: dict[str, dict[str, Decision]] = {}
    for part in model.parts:
        known = said.setdefault(part.folder, {})
        for scope, decision in plan.layers.get(part.role, {}).items():
            first = known.setdefault(scope, decision)
            if first.choice != decision.choice:
                raise InputError(
                    f"{where}: {scope} gets {first.choice} in one graph of {part.folder} and "
                    f"{decision.choice} in another. They share its weights: give it one of them."
                )
    return said


def _check_layers(plan: Plan, role: str, kinds: Mapping[str, str], where: str) -> None:
    choices, told = plan.choices(role), plan.kinds.get(role, {})
    missing = [scope for scope in choices if scope not in kinds]
    if missing:
        raise InputError(
            f"{where}: {role} has no layer {listed(missing)}. The plan was made for another architecture; "
            "make one for this model with --quantize mixed."
        )
    for scope, choice in choices.items():
        kind, wanted = kinds[scope], told.get(scope, kinds[scope])
        if kind != wanted:
            raise InputError(
                f"{where}: {role}: {scope} is a {kind} layer here, and was a {wanted} layer where the plan "
                "was made; make a plan for this model."
            )
        if kind == "embedding" and choice == "int8":
            raise InputError(
                f"{where}: {role}: {scope} is a table, which computes nothing: it can get float or "
                "int8-weights, not int8."
            )
