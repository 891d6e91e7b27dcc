"""Says which layer got which form, and why: what ``--explain`` prints.

Forms are read off the graphs that are really emitted, so that nothing is claimed that is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import onnx

from edgediff.export.emit.graph import Node
from edgediff.export.emit.integers import Choice, IntegerForm, Quantization
from edgediff.export.emit.onnx import PORTABLE, Profile, emit
from edgediff.export.emit.onnx_fused import ORT_CPU, ORT_CPU_AVX2
from edgediff.export.families.parts import Model, Part
from edgediff.export.quantize.plan import Decision, Plan
from edgediff.export.quantize.positions import layers_of, weight_of
from edgediff.export.quantize.storage import graph_bytes, layer_bytes

PROFILES = (PORTABLE, ORT_CPU, ORT_CPU_AVX2)
# What multiplies, or looks up; of a layer's operators the one that is its form.
_DOING = (
    "QLinearConv", "Conv", "MatMulIntegerToFloat", "MatMulNBits", "QLinearMatMul", "MatMul", "Gemm", "Gather",
)  # fmt: skip
_FLOAT = Decision("float", "not in the plan")


def explain(
    plan: Plan,
    model: Model,
    quantizations: Mapping[str, Quantization] | None = None,
    profiles: Sequence[Profile] = PROFILES,
) -> list[str]:
    """A table for each graph, a line for each layer, and what it comes to; the lines of it.

    ``quantizations`` are what the graphs are emitted with: spans for what computes in int8, which the forms
    cannot be told without, and the convolutions whose weights are symmetric.
    """
    lines: list[str] = []
    for part in model.parts:
        own = (quantizations or {}).get(part.role, Quantization())
        decisions = plan.layers.get(part.role, {})
        lines += _explained(part, decisions, own, profiles)
        lines.append("")
    return lines


def _explained(
    part: Part, decisions: Mapping[str, Decision], own: Quantization, profiles: Sequence[Profile]
) -> Iterator[str]:
    choices: dict[str, Choice] = {scope: decision.choice for scope, decision in decisions.items()}
    said = Quantization(choices, own.spans, own.vnni)
    forms = [_forms(part, said, profile) for profile in profiles]
    rows = []
    for node in layers_of(part.graph):
        decision = decisions.get(node.scope, _FLOAT)
        before, after = layer_bytes(node, "float"), layer_bytes(node, decision.choice)
        shape = "x".join(map(str, weight_of(node).shape))
        found = [form.get(node.scope, "-") for form in forms]
        rows.append(
            (node.scope, _kind(node), shape, decision.choice, *found, f"{before} -> {after}", decision.reason)
        )
    head = ("layer", "kind", "weight", "choice", *(each.name for each in profiles), "bytes", "why")
    before, after = graph_bytes(part.graph, {}), graph_bytes(part.graph, choices)
    counts = Counter(decisions.get(node.scope, _FLOAT).choice for node in layers_of(part.graph))
    told = ", ".join(f"{count} {choice}" for choice, count in counts.most_common())
    yield f"{part.role}: {told}; {before / 1e6:.2f} -> {after / 1e6:.2f} MB of weights"
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "  ".join(cells).rstrip()


def _kind(node: Node) -> str:
    return node.op if node.op != "conv" else f"conv {node.attributes['kernel']}x{node.attributes['kernel']}"


def _forms(part: Part, said: Quantization, profile: Profile) -> dict[str, str]:
    """The form of each layer in one profile, by scope."""
    graph = emit(part.graph, profile=profile, quantization=said).model.graph
    by_place: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        by_place.setdefault(node.name.rpartition("/")[0], []).append(node)
    makers = {output: node for node in graph.node for output in node.output}
    found = {}
    for layer in layers_of(part.graph):
        place = "/" + layer.scope.replace(".", "/")
        doing = [node for node in by_place.get(place, ()) if node.op_type in _DOING]
        if doing:
            choice = said.choices.get(layer.scope, "float")
            found[layer.scope] = _form(layer, choice, doing, makers, profile.integers, said)
    return found


def _form(
    layer: Node,
    choice: Choice,
    doing: Sequence[onnx.NodeProto],
    makers: Mapping[str, onnx.NodeProto],
    form: IntegerForm,
    said: Quantization,
) -> str:
    # Halving codes at load is a product too, of no activations.
    last = doing[-1]
    if last.op_type == "Gather":
        return "Gather" if choice == "float" else "Gather of codes"
    times = sum(node.op_type == last.op_type for node in doing)
    name = last.op_type if times == 1 else f"{times} {last.op_type}"
    if last.op_type == "QLinearConv":
        if form.narrow:
            return f"{name}, 7 bits"
        return f"{name}, zero point {'0 (VNNI)' if layer.scope in said.vnni else '-1 (AMX)'}"
    if last.op_type == "MatMulIntegerToFloat":
        return f"{name}, 7 bits" if form.narrow else name
    if choice == "int8":
        return f"{name} between Q and DQ"
    if choice != "float" and any(_widened(each, makers) for node in doing for each in node.input[1:2]):
        return f"DQ of weights, {name}"
    return name


def _widened(tensor: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a weight is made of codes, perhaps turned or reshaped on the way."""
    while tensor in makers:
        node = makers[tensor]
        if node.op_type == "DequantizeLinear":
            return True
        if not node.input:
            return False
        tensor = node.input[0]
    return False
