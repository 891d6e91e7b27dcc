"""The work of a graph, counted from one pass of it: ONNX Runtime's profile tells each node's shapes.

This is for bundles whose manifest does not say it. The pass is of ONNX Runtime's CPU provider, whatever the
device, without the optimisations that hide a weight's shape.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from edgediff import golden
from edgediff.bundle import Bundle, GraphSpec
from edgediff.errors import EdgediffError
from edgediff.onnx_scan import scan
from edgediff.threads import available_threads

Shape = Sequence[int]


def done(order: Mapping[str, Any], first: float) -> dict[str, Any]:
    """Count the passes of ``asked``: pairs of a role and the extents of its inputs.

    ``counts`` has an object by class for each of them, or None where its graph cannot be run here.
    """
    del first
    bundle = Bundle.open(order["bundle"])
    return {"counts": [_of_role(bundle, role, shapes) for role, shapes in order["asked"]]}


def _of_role(bundle: Bundle, role: str, shapes: Mapping[str, Shape]) -> dict[str, int] | None:
    """Count the portable form, which has all the work of the network, else the one that the CPU takes."""
    specs = [s for s in bundle.components.get(role, ()) if s.runtime == "onnxruntime"]
    found = [s for s in specs if s.profile == "portable"]
    with contextlib.suppress(EdgediffError):
        found.append(bundle.graph(role, "onnxruntime", "cpu"))
    for spec in found:
        try:
            return counted(bundle, spec, shapes)
        except Exception:  # such as an operator of another provider: ONNX Runtime has one class for each
            continue
    return None


def counted(bundle: Bundle, spec: GraphSpec, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Run a graph once on inputs of these extents and return its work by class."""
    file = bundle.path / spec.file
    scan(file, spec)
    ort = importlib.import_module("edgediff.runtimes._ort_providers").import_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="edgediff-bench-") as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = available_threads()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "pass")
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        kinds = {each.name: _DTYPES[each.type] for each in session.get_inputs()}
        given = golden.inputs({name: (kinds[name], tuple(shape)) for name, shape in shapes.items()})
        session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return summed(events)


_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64",
    "tensor(int32)": "int32", "tensor(bool)": "bool",
}  # fmt: skip


def summed(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the work by class of all nodes in a profile's events."""
    work = {"conv": 0, "linear": 0, "attention": 0}
    for event in events:
        told = event.get("args", {})
        if event.get("cat") != "Node" or not str(event.get("name", "")).endswith("_kernel_time"):
            continue
        rule = _RULES.get(told.get("op_name", ""))
        if rule is not None:
            kind, flops = rule(_shapes(told["input_type_shape"]), _shapes(told["output_type_shape"]))
            work[kind] += flops
    return work


def _shapes(listed: Sequence[Mapping[str, Shape]]) -> list[Shape]:
    return [next(iter(each.values())) for each in listed]


Rule = Callable[[list[Shape], list[Shape]], tuple[str, int]]


def _conv(weight: int) -> Rule:
    """Each number of the output is a sum over one filter; ``weight`` is the place among the inputs."""

    def rule(x: list[Shape], y: list[Shape]) -> tuple[str, int]:
        return "conv", 2 * prod(y[0]) * prod(x[weight][1:])

    return rule


def _product(second: int) -> Rule:
    """Products with a matrix are linear layers; those of two stacks of matrices belong to attention. Where
    there is no ``second``, it is a weight in some form of its own."""

    def rule(x: list[Shape], y: list[Shape]) -> tuple[str, int]:
        plain = not second or len(x) <= second or len(x[second]) <= 2 or len(x[0]) <= 2
        return "linear" if plain else "attention", 2 * prod(y[0]) * _inner(x[0], y[0])

    return rule


def _inner(x: Shape, y: Shape) -> int:
    """The length of the sums; a transposed left matrix has it elsewhere, where the result's rows stand."""
    return x[-2] if len(x) > 1 and x[-1] == y[-2] != x[-2] else x[-1]


def _attention(x: list[Shape], y: list[Shape]) -> tuple[str, int]:
    """Queries, keys and values as (batch, tokens, width) or (batch, heads, tokens, width)."""
    q, k, v = x[:3]
    return "attention", 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "ConvInteger"), _conv(1)),
    "QLinearConv": _conv(3),
    **dict.fromkeys(("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger"), _product(1)),
    **dict.fromkeys(("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"), _product(0)),
    "QLinearMatMul": _product(3),
    "QGemm": _product(3),
    **dict.fromkeys(("MultiHeadAttention", "Attention"), _attention),
}  # fmt: skip
