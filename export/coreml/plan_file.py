"""A plan of bits as a file, which other models of the same layers can use.

``edgediff-bits/1`` is a JSON object of ``format`` and ``layers`` (the name of a scheme by role and scope),
perhaps ``granularity`` and ``group_size``, ``kinds`` (what operation each layer is, compared where it is
said), and ``made_for``, ``floor`` and ``sensitivity``, which are for readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgediff.errors import InputError
from edgediff.export.coreml.mixed_plan import FLOAT, PALETTES, BitPlan
from edgediff.export.families.parts import Model
from edgediff.export.json_files import dump_json, parse_json
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

FORMAT = "edgediff-bits/1"
FILE = "quantization.json"
_ONNX = "edgediff-plan/"
_GRANULARITIES = ("per-tensor", "per-grouped-channel")


def to_json(plan: BitPlan) -> bytes:
    """The plan as the bytes of its file; equal plans give equal bytes."""
    told = {"granularity": plan.granularity, "group_size": plan.group_size}
    return dump_json(
        {
            "format": FORMAT,
            "made_for": dict(plan.made_for),
            "floor": dict(plan.floor),
            **{name: value for name, value in told.items() if value is not None},
            "layers": {role: dict(layers) for role, layers in plan.layers.items()},
            "kinds": {role: dict(kinds) for role, kinds in plan.kinds.items()},
            "sensitivity": {
                role: {scope: dict(ratios) for scope, ratios in layers.items()}
                for role, layers in plan.sensitivity.items()
            },
        }
    )


def read_plan(path: Path | str) -> BitPlan:
    """The plan in a file.

    Raises:
        InputError: there is no such file, it is too large, is of another format, or says what no plan can
            say.
        SourceError: it is no JSON.
    """
    return parse_plan(read_bytes(Path(path)), str(Path(path)))


def parse_plan(data: bytes, where: str) -> BitPlan:
    """The plan in some bytes; see :func:`read_plan`."""
    root = parse_json(data, where)
    found = root.get("format")
    if found != FORMAT:
        why = f"{where}: its format is {shown(found)}; plans of bits for Core ML are {FORMAT}. "
        if isinstance(found, str) and found.startswith(_ONNX):
            raise InputError(f"{why}This one is for 'edgediff export onnx'; make one with --quantize mixed.")
        raise InputError(f"{why}'edgediff export coreml --quantize mixed' writes one as {FILE}.")
    layers = words(root.get("layers"), f"{where}: layers")
    for role, names in layers.items():
        for scope, name in names.items():
            if name not in (FLOAT, *PALETTES):
                raise InputError(
                    f"{where}: {role}: {scope[:NAME]} gets {shown(name)}; a layer can get {FLOAT}, "
                    f"{', '.join(PALETTES)}."
                )
    granularity, group_size = _grouping(root, where)
    return BitPlan(
        layers,
        words(root.get("kinds", {}), f"{where}: kinds"),
        granularity,
        group_size,
        sensitivity(root.get("sensitivity", {}), f"{where}: sensitivity"),
        numbers(root.get("floor", {}), f"{where}: floor"),
        table(root.get("made_for", {}), f"{where}: made_for"),
    )


def fitted(plan: BitPlan, model: Model, where: str = "the plan") -> BitPlan:
    """A plan that was made for one model, for another of the same layers, such as a fine-tune.

    Every layer that the plan names must be there and be the same kind of layer. What it does not mention
    stays float; a second form of a network (one that is steered, say) takes what is said of the first.

    Raises:
        InputError: a layer is missing, is of another kind, or gets two schemes.
    """
    present = {part.role for part in model.parts}
    missing = [role for role in plan.layers if role not in present]
    if missing:
        raise InputError(
            f"{where}: is for a model with {', '.join(missing)}; this one has {', '.join(sorted(present))}. "
            "Make a plan for this model, or take those layers out of it."
        )
    said = _by_folder(plan, model, where)
    layers: dict[str, dict[str, str]] = {}
    kinds: dict[str, dict[str, str]] = {}
    for part in model.parts:
        kinds[part.role] = {node.scope: node.op for node in layers_of(part.graph)}
        _check(plan, part.role, kinds[part.role], where)
        given = said[part.folder]
        layers[part.role] = {scope: given.get(scope, FLOAT) for scope in kinds[part.role]}
    return BitPlan(
        layers, kinds, plan.granularity, plan.group_size, plan.sensitivity, plan.floor, plan.made_for
    )


def _by_folder(plan: BitPlan, model: Model, where: str) -> dict[str, dict[str, str]]:
    said: dict[str, dict[str, str]] = {}
    for part in model.parts:
        known = said.setdefault(part.folder, {})
        for scope, name in plan.layers.get(part.role, {}).items():
            first = known.setdefault(scope, name)
            if first != name:
                raise InputError(
                    f"{where}: {scope} gets {first} in one graph of {part.folder} and {name} in another. "
                    "They are forms of one network: give it one of them."
                )
    return said


def _check(plan: BitPlan, role: str, kinds: Mapping[str, str], where: str) -> None:
    named, told = plan.layers.get(role, {}), plan.kinds.get(role, {})
    missing = [scope for scope in named if scope not in kinds]
    if missing:
        raise InputError(
            f"{where}: {role} has no layer {listed(missing)}. The plan was made for "
            "another architecture; make one for this model with --quantize mixed."
        )
    for scope in named:
        if told.get(scope, kinds[scope]) != kinds[scope]:
            raise InputError(
                f"{where}: {role}: {scope} is a {kinds[scope]} layer here, and was a {told[scope]} layer "
                "where the plan was made; make a plan for this model."
            )


def _grouping(root: Mapping[str, Any], where: str) -> tuple[str | None, int | None]:
    granularity, size = root.get("granularity"), root.get("group_size")
    if granularity is not None and granularity not in _GRANULARITIES:
        raise InputError(
            f"{where}: granularity {shown(granularity)}: known are {' and '.join(_GRANULARITIES)}."
        )
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise InputError(f"{where}: group_size is {shown(size)}, expected a number of channels.")
    return granularity, size
