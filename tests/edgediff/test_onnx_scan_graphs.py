"""What the scan says of nodes, of sizes that constants prove, and of interfaces."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff import onnx_bombs
from edgediff.bundle import GraphSpec, TensorSpec

pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper

from tests import graphs
from tests.hostile import OUT, TENSORS, WHOLE, X, Y, graph, node, product, refused, scan


def test_f042_a_chain_of_200_000_nodes(tmp_path: Path) -> None:
    chain = b"".join(b"\x0a\x18\x0a\x07t%06d\x12\x07t%06d\x22\x04Relu" % (i, i + 1) for i in range(200_000))
    empty = b"\x08\x0a\x42\x04\x0a\x00\x10\x11"
    data = empty + protobuf_length(b"\x3a", chain)
    began = time.monotonic()
    refused(tmp_path, data, "more than the 20000 nodes")
    assert time.monotonic() - began < 2
    few = empty + protobuf_length(b"\x3a", chain[: 26 * 3])
    refused(tmp_path, few, "'t000000', which nothing before it makes")


def protobuf_length(tag: bytes, content: bytes) -> bytes:
    """Return a field of any length."""
    size, head = len(content), []
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return tag + bytes([*head, size]) + content


def test_f042_too_much_of_anything(tmp_path: Path) -> None:
    scalars = {f"w{i}": np.float32(i) for i in range(4097)}
    refused(tmp_path, product(**scalars), "more than the 4096 initializers")
    outputs = [helper.make_tensor_value_info(f"y{i}", 1, []) for i in range(257)]
    refused(tmp_path, graph(outputs=outputs), "more than the 256 outputs")
    refused(tmp_path, graph(node("Sum", ["x"] * 600_000, ["y"])), "more than 500000 fields")
    packed = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1] * 200_000, raw_data=bytes(4))
    refused(tmp_path, product(w=packed), r"impossible dims|more than 500000 fields")


LARGE = 1 << 40
DOZEN = np.zeros(12, np.float32)


@pytest.mark.parametrize("bytes_", [1 << 30, 1 << 40, 1 << 62])
def test_f043_constant_of_shape(tmp_path: Path, bytes_: int) -> None:
    made = node("ConstantOfShape", ["s"], ["b"])
    refused(tmp_path, graph(made, s=np.int64([bytes_ // 4])), "makes a tensor of .* elements, and at most")
    refused(tmp_path, graph(made, s=np.int64([1 << 20, bytes_ >> 22])), "makes a tensor of")


def test_f043_however_the_shape_is_stated(tmp_path: Path) -> None:
    made = node("ConstantOfShape", ["s"], ["b"])
    stated = {
        "value": numpy_helper.from_array(np.int64([LARGE])),
        "value_ints": [LARGE],
        "value_int": LARGE,
    }
    for key, value in stated.items():
        constant = node("Constant", [], ["t"], **{key: value})
        refused(tmp_path, graph(constant, node("Identity", ["t"], ["s"]), made), "makes a tensor of")
    typed = TensorProto(name="s", data_type=TensorProto.INT64, dims=[1], int64_data=[LARGE])
    refused(tmp_path, graph(made, s=typed), "makes a tensor of")


@pytest.mark.parametrize(
    ("made", "weights"),
    [
        (node("Expand", ["x", "s"], ["b"]), {"s": np.int64([LARGE, 1])}),
        (node("Expand", ["w", "s"], ["b"]), {"w": DOZEN, "s": np.int64([1 << 24, 12])}),
        (node("Tile", ["x", "s"], ["b"]), {"s": np.int64([1 << 16, 1 << 16])}),
        (node("Tile", ["w", "s"], ["b"]), {"w": DOZEN, "s": np.int64([1 << 24])}),
        (node("Range", ["a", "s", "d"], ["b"]), {"a": np.int64(0), "s": np.int64(LARGE), "d": np.int64(1)}),
        (
            node("Range", ["a", "s", "d"], ["b"]),
            {"a": np.float32(1), "s": np.float32(0), "d": np.float32(-1e-9)},
        ),
        (node("Range", ["a", "s", "d"], ["b"]), {"a": np.float64(1), "s": np.float64(2), "d": np.float64(0)}),
        (node("Pad", ["x", "s"], ["b"]), {"s": np.int64([0, LARGE, 0, 0])}),
        (node("Pad", ["x"], ["b"], pads=[0, 0, LARGE, 0]), {}),
        (node("Resize", ["x", "", "s"], ["b"]), {"s": np.float32([1e6, 1e6])}),
        (node("Resize", ["x", "", "", "s"], ["b"]), {"s": np.int64([1 << 20, 1 << 20])}),
        (node("Upsample", ["x", "s"], ["b"]), {"s": np.float32([1e6, 1e6])}),
        (node("RandomNormal", [], ["b"], shape=[1 << 20, 1 << 20]), {}),
        (node("RandomUniform", [], ["b"], shape=[LARGE]), {}),
        (node("OneHot", ["x", "s", "v"], ["b"]), {"s": np.int64([LARGE]), "v": DOZEN[:2]}),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)
def test_f043_other_bombs(tmp_path: Path, made: Any, weights: dict[str, Any]) -> None:
    refused(tmp_path, graph(made, **weights), "makes a tensor of|has no end")


def test_f043_sizes_that_models_have(tmp_path: Path) -> None:
    nodes = [
        node("ConstantOfShape", ["s"], ["zeros"]),
        node("Expand", ["x", "s"], ["expanded"]),
        node("Tile", ["x", "s"], ["tiled"]),
        node("Range", ["zero", "many", "one"], ["places"]),
        node("Resize", ["x", "", "scales"], ["y"]),
        node("Pad", ["x"], ["padded"], pads=[0, -1, 0, 1]),
    ]
    shape, scales = np.int64([77, 77]), np.float32([1, 2])
    ends = {"zero": np.int64(0), "many": np.int64(4096), "one": np.int64(1)}
    assert scan(tmp_path, graph(*nodes, s=shape, scales=scales, **ends)).nodes == 6
    assert onnx_bombs.MAX_FOLDED * 4 == 256 << 20


def test_f044_an_endless_loop(tmp_path: Path) -> None:
    refused(tmp_path, graphs.endless(), "'Loop', which is not allowed")


@pytest.mark.parametrize(
    ("kind", "domain"),
    [
        ("Own", "org.example"), ("Relu", "org.example"), ("Inverse2", ""), ("NoSuch", "com.microsoft"),
        ("EPContext", "com.microsoft"), ("BeamSearch", "com.microsoft"), ("Tokenizer", "com.microsoft"),
        ("Snpe", "com.microsoft"), ("Scan", ""), ("SequenceMap", ""), ("StringConcat", ""), ("", ""),
        ("ReorderInput", "com.microsoft.nchwc"), ("TreeEnsemble", "ai.onnx.ml"), ("Relu", "com.microsoft"),
        ("\x1b[2J\n" * 50, "\u202e"),
    ],
)  # fmt: skip
def test_f045_operators(tmp_path: Path, kind: str, domain: str) -> None:
    refused(tmp_path, graph(node(kind, ["x"], ["y"], domain=domain)), "which is not allowed")


def test_f045_options_in_the_metadata(tmp_path: Path) -> None:
    model = product()
    model.metadata_props.add(key="ort_config", value='{"session_options": {}}')
    refused(tmp_path, model, "options for ONNX Runtime")


def test_operators_of_onnx_runtime(tmp_path: Path) -> None:
    model = graph(node("GroupNorm", ["x"], ["t"], domain="com.microsoft"), node("Relu", ["t"], ["y"]))
    for domain in ("com.microsoft", "com.microsoft.nchwc", "ai.onnx.ml"):  # its optimiser imports them all
        model.opset_import.append(helper.make_opsetid(domain, 1))
    assert scan(tmp_path, model).operators == {"com.microsoft.GroupNorm": 1, "Relu": 1}
    model.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    refused(tmp_path, model, "imported twice")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (graph(node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])), "before"),
        (graph(node("Relu", ["y"], ["y"])), "nothing before it makes"),
        (graph(node("Add", ["x", "nowhere"], ["y"])), "'nowhere', which nothing before it makes"),
        (graph(node("Relu", ["a"], ["y"]), node("Relu", ["x"], ["a"])), "nothing before it makes"),
        (graph(node("Relu", ["x"], ["y"]), node("Relu", ["x"], ["y"])), "made twice"),
        (graph(node("Split", ["x"], ["y", "y"])), "made twice"),
        (graph(node("Relu", ["x"], ["x"])), "made twice"),
        (graph(node("Relu", ["x"], ["w"]), w=WHOLE), "made twice"),
        (graph(node("Relu", ["x"], ["y"]), inputs=(X, X)), "made twice"),
        (graph(node("Relu", ["x"], ["z"])), "no node makes the output 'y'"),
        (graph(node("Constant", [], ["y"])), "more or less than one tensor"),
        (graph(node("Constant", [], ["y"], value_int=1, value_float=1.0)), "more or less than one tensor"),
    ],
)
def test_f047_what_does_not_connect(tmp_path: Path, model: Any, says: str) -> None:
    refused(tmp_path, model, says)


def test_weights_among_the_inputs(tmp_path: Path) -> None:
    w = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4])
    model = graph(node("MatMul", ["x", "w"], ["y"]), inputs=(X, w), w=WHOLE)
    assert scan(tmp_path, model, stated()).initializers == 1


def stated(
    inputs: Any = TENSORS, outputs: Any = OUT, precision: str = "fp32", weights: tuple[str, ...] = ()
) -> GraphSpec:
    return GraphSpec("onnxruntime", "portable", "model.onnx", precision, inputs, outputs, weights)


def tensor(name: str = "x", dtype: str = "float32", *dims: Any) -> TensorSpec:
    return TensorSpec(name, dtype, dims or ("batch", 4))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((tensor("sample"),), OUT),
        ((tensor(), tensor("more")), OUT),
        ((tensor("x", "float16"),), OUT),
        ((tensor("x", "float32", "batch", 4, 1),), OUT),
        ((tensor("x", "float32", "batch"),), OUT),
        ((tensor("x", "float32", "batch", 5),), OUT),
        ((tensor("x", "float32", "batch", "free"),), OUT),
        (TENSORS, (tensor("z"),)),
        (TENSORS, (tensor("y", "int64"),)),
        (TENSORS, (tensor("y"), tensor("y2"))),
        (TENSORS, (tensor("y", "float32", 4, "batch"),)),
    ],
)
def test_f048_f024_another_interface(tmp_path: Path, inputs: Any, outputs: Any) -> None:
    refused(tmp_path, product(), "in the manifest and|the manifest has the", stated(inputs, outputs))


def test_f048_one_more_than_the_manifest_says(tmp_path: Path) -> None:
    more = helper.make_tensor_value_info("more", TensorProto.FLOAT, [])
    wider = graph(node("Relu", ["x"], ["y"]), node("Relu", ["more"], ["z"]), inputs=(X, more))
    refused(tmp_path, wider, "the graph has 'x', 'more'", stated())
    refused(tmp_path, graph(node("Relu", ["x"], ["y"]), outputs=(Y, X)), "the graph has 'y', 'x'", stated())


def test_f048_a_manifest_may_fix_what_the_graph_leaves_open(tmp_path: Path) -> None:
    fixed = stated((tensor("x", "float32", 2, 4),), (tensor("y", "float32", 2, 4),))
    assert scan(tmp_path, product(), fixed).nodes == 1


def test_f048_inputs_that_are_no_tensors(tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    refused(tmp_path, graph(node("Relu", ["x"], ["y"]), inputs=(sequence,)), "no plain tensor")
    double = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [1])
    refused(tmp_path, graph(node("Relu", ["x"], ["y"]), inputs=(double,)), "type 11")
    negative = helper.make_tensor_value_info("x", TensorProto.FLOAT, [-1])
    refused(tmp_path, graph(node("Relu", ["x"], ["y"]), inputs=(negative,)), "dim of -1")


def test_f049_precision(tmp_path: Path) -> None:
    half = graph(
        node("Cast", ["w"], ["v"], to=TensorProto.FLOAT), node("MatMul", ["x", "v"], ["y"]),
        w=WHOLE.astype(np.float16),
    )  # fmt: skip
    assert scan(tmp_path, half, stated(precision="fp16"))
    refused(tmp_path, half, "less precision", stated(precision="fp32"))
    refused(tmp_path, product(w=WHOLE.astype(np.int8)), "less precision", stated(precision="fp32"))
    refused(tmp_path, product(), "all weights of the graph are float32", stated(precision="fp16"))
    assert scan(tmp_path, product(), stated(precision="mine"))


@pytest.mark.parametrize(
    "made",
    [
        node("DequantizeLinear", ["x"], ["y"]),
        node("DequantizeLinear", ["x", ""], ["y"]),
        node("QuantizeLinear", ["x", "", "x"], ["y"]),
        node("QLinearConv", ["x", "x", "x", "x", "", "x", "x", "x"], ["y"]),
        node("MatMulNBits", ["x", "x"], ["y"], domain="com.microsoft"),
    ],
)
def test_f049_quantised_without_a_scale(tmp_path: Path, made: Any) -> None:
    refused(tmp_path, graph(made), "has no scale")


def test_f054_hostile_texts_are_not_printed(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07<script>\r\n" * 40_000
    model = product()
    model.metadata_props.add(key=evil, value=evil)
    model.producer_name = model.doc_string = model.graph.doc_string = model.graph.name = evil
    model.graph.node[0].name = model.graph.node[0].doc_string = evil
    report = scan(tmp_path, model)
    assert "owned" not in str(report)
    model.graph.node[0].input[0] = evil
    refused(tmp_path, model, "nothing before it makes")
