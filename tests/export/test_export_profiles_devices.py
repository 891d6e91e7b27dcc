"""Forms for providers that are not on a test machine: their operators, types and, in NumPy, their numbers.

Nothing here ran on CUDA or Core ML.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from contributed import CONTRIBUTED
from export_helpers import Array, difference, run
from onnx.reference import ReferenceEvaluator
from test_export_profiles import CASES, TOLERANCE, feeds, kinds, sampled, shared, text, unet, vae

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from edgediff.export.emit.graph import Graph, Kind
from edgediff.export.emit.onnx import PORTABLE, emit
from edgediff.export.emit.onnx_cuda import ORT_CUDA
from edgediff.export.emit.onnx_static import COREML_EP
from edgediff.export.emit.ops import Ops
from edgediff.export.networks.blocks import resnet, transformer

pytestmark = pytest.mark.slow

# Operators that ONNX Runtime's Core ML provider has (its list of ML Program operators).
CORE_ML = {
    "Add", "Cast", "Concat", "Conv", "Cos", "DepthToSpace", "Div", "Erf", "Exp", "Gemm", "Gelu",
    "GroupNormalization", "Identity", "InstanceNormalization", "LayerNormalization", "MatMul", "Mul",
    "Reshape", "Resize", "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh",
    "Transpose", "Unsqueeze",
}  # fmt: skip
CUDA = {
    "MultiHeadAttention", "GroupNorm", "SkipGroupNorm", "SkipLayerNormalization", "BiasSplitGelu", "NhwcConv",
}  # fmt: skip


def wide() -> Graph:
    """A piece of a U-Net at the narrowest width that the CUDA operators cover."""
    ops = Ops("net")
    x = ops.input("sample", Kind.IMAGE, 4, "height", "width")
    words = ops.input("encoder_hidden_states", Kind.TOKENS, 8, "sequence_length")
    time = ops.input("vector", Kind.VECTOR, 16)
    first = ops.conv(x, "conv_in", 320)
    x = resnet(ops, first, "resnet", 320, 32, 1e-5, time)
    x = transformer(ops, x, "attention", 1, 8, 32, words, linear=False)
    x = ops.upsample_like(ops.downsample(x, "down", 320), first)
    x = ops.silu(ops.group_norm(ops.add(x, first), "norm", 32, 1e-5))
    ops.output("out", ops.conv(x, "conv_out", 3), "height", "width")
    return ops.graph()


def evaluated(path: Path, inputs: dict[str, Array]) -> dict[str, Array]:
    model = onnx.load(path)
    for node in model.graph.node:  # the evaluator would take an output without a name for an absent input
        for i, name in enumerate(node.output):
            node.output[i] = name or f"{node.name}_unused_{i}"
    evaluator: Any = ReferenceEvaluator(model, new_ops=CONTRIBUTED)
    return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))


SOME = ("unet", "odd sizes", "linear projection, two layers", "decoder", "encoder", "text")


@pytest.mark.parametrize("case", ["wide", *SOME])
def test_cuda_form_in_numpy(case: str, tmp_path: Path) -> None:
    graph, extents, batch = CASES[case] if case != "wide" else (wide(), sampled((6, 5)), 2)
    paths = shared(graph, tmp_path, (PORTABLE, ORT_CUDA))
    onnx.checker.check_model(str(paths["ort-cuda"]))
    inputs = feeds(graph, extents, batch)
    wanted, found = run(paths["portable"], inputs), evaluated(paths["ort-cuda"], inputs)
    for name in wanted:
        assert difference(found[name], wanted[name]) < TOLERANCE, name


@pytest.mark.parametrize("case", ["wide", "odd sizes", "encoder", "text"])
def test_cuda_form_computes_in_half(case: str, tmp_path: Path) -> None:
    graph, extents, batch = CASES[case] if case != "wide" else (wide(), sampled((6, 5)), 2)
    paths = shared(graph, tmp_path, (PORTABLE, ORT_CUDA), "fp16")
    inputs = feeds(graph, extents, batch)
    wanted, found = run(paths["portable"], inputs), evaluated(paths["ort-cuda"], inputs)
    for name in wanted:
        assert found[name].dtype == np.float32
        assert 1e-6 < difference(found[name], wanted[name]) < 2e-2, name


def test_cuda_form_uses_every_operator() -> None:
    found = Counter(node.op_type for node in emit(wide(), "fp16", ORT_CUDA).model.graph.node)
    assert found.keys() >= CUDA
    assert found["GroupNorm"] == 2  # the resnet's; its sum goes to the transformer's, another to the last
    assert found["SkipGroupNorm"] == 2
    assert not found.keys() & {"Softmax", "InstanceNormalization", "Conv", "Split"}


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("case", ["wide", "odd sizes", "encoder", "text"])
def test_onnx_runtime_agrees_with_the_types(case: str, storage: Any, tmp_path: Path) -> None:
    """It checks every node against its operator's schema before it looks for a kernel."""
    graph = CASES[case][0] if case != "wide" else wide()
    path = shared(graph, tmp_path, (ORT_CUDA,), storage)["ort-cuda"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        told = re.search(
            r"NOT_IMPLEMENTED : (?:Could not find an implementation|Failed to find kernel) for (\S+?)\(1\)",
            str(error),
        )
        assert told is not None
        assert told[1].removeprefix("com.microsoft.") in CUDA
    else:
        assert case == "text"  # what it is fused to, the CPU has too


def test_a_sum_that_leaves_the_graph_is_there(tmp_path: Path) -> None:
    """The sum before a norm is an output, a term of it is no linear layer, and two norms read it."""
    ops = Ops("net")
    x, y = (ops.input(name, Kind.TOKENS, 6, "tokens") for name in "xy")
    total = ops.add(ops.gelu(x), y)
    ops.output("total", total, "tokens")
    ops.output("one", ops.layer_norm(total, "one"), "tokens")
    ops.output("two", ops.layer_norm(total, "two", 1e-3), "tokens")
    graph = ops.graph()
    paths = shared(graph, tmp_path, (PORTABLE, ORT_CUDA))
    inputs = feeds(graph, {"x": (4,), "y": (4,)}, 2)
    wanted, found = run(paths["portable"], inputs), evaluated(paths["ort-cuda"], inputs)
    assert kinds(paths["ort-cuda"])["SkipLayerNormalization"] == 1
    for name in wanted:
        assert difference(found[name], wanted[name]) < TOLERANCE, name


def test_nodes_that_stay_float() -> None:
    """Nodes that are named compute in float32, and so does everything where all are."""
    graph = unet()
    kept = emit(graph, "fp16", ORT_CUDA, keep_float=lambda node: node.op == "attention").model
    attentions = [node for node in kept.graph.node if node.op_type == "MultiHeadAttention"]
    made = {out: node for node in kept.graph.node for out in node.output}
    for node in attentions:
        assert [made[name].op_type for name in node.input] == ["Cast"] * 3
        assert all(made[name].attribute[0].i == onnx.TensorProto.FLOAT for name in node.input)
    whole = emit(graph, "fp16", ORT_CUDA, keep_float=lambda node: True).model
    assert onnx.TensorProto.FLOAT16 not in {
        node.attribute[0].i for node in whole.graph.node if node.op_type == "Cast"
    }


FIXED = {
    "unet": (unet(), sampled((8, 6))),
    "odd sizes": (unet(), sampled((9, 13), 5)),
    "decoder": (vae()[0], {"latent_sample": (4, 6)}),
    "encoder": (vae()[1], {"sample": (8, 12)}),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", FIXED)
def test_fixed_form(case: str, batch: int, tmp_path: Path) -> None:
    graph, extents = FIXED[case]
    path = shared(graph, tmp_path, (COREML_EP,), extents=extents, batch=batch)["coreml-ep"]
    (tmp_path / "plain").mkdir()
    portable = shared(graph, tmp_path / "plain", (PORTABLE,))["portable"]
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    assert {node.op_type for node in model.graph.node} <= CORE_ML
    for value in (*model.graph.input, *model.graph.output):
        assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), value.name
    inputs = feeds(graph, extents, batch)
    wanted, found = run(portable, inputs), run(path, inputs)
    for name in wanted:
        assert difference(found[name], wanted[name]) < 1e-6, name


def test_every_extent_of_the_fixed_form_is_known(tmp_path: Path) -> None:
    """Shape inference finds a number for each: nothing is left to run time."""
    graph, extents = FIXED["odd sizes"]
    path = shared(graph, tmp_path, (COREML_EP,), extents=extents)["coreml-ep"]
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
    assert len(inferred.graph.value_info) > 100
    for value in inferred.graph.value_info:
        assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), value.name


def test_the_text_encoder_is_fixed_but_for_its_look_ups(tmp_path: Path) -> None:
    graph, extents = text(), {"input_ids": (12,)}
    paths = shared(graph, tmp_path, (COREML_EP, PORTABLE), extents=extents)
    model = onnx.load(paths["coreml-ep"], load_external_data=False)
    others = {node.op_type for node in model.graph.node} - CORE_ML
    assert others == {"Gather", "GatherND", "ArgMax", "Equal"}
    inputs = feeds(graph, extents)
    wanted, found = run(paths["portable"], inputs), run(paths["coreml-ep"], inputs)
    for name in wanted:
        assert difference(found[name], wanted[name]) < 1e-6, name


def test_extents_are_asked_for() -> None:
    with pytest.raises(ValueError, match="coreml-ep: the extents of unet are missing"):
        emit(unet(), "fp32", COREML_EP)
