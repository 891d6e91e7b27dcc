"""Coded parameters in the weights file: read back by ONNX and run by ONNX Runtime."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from export_helpers import Array, write_safetensors
from onnx import TensorProto, helper, numpy_helper

from edgediff.errors import SourceError
from edgediff.export.emit import codes_stored, weights
from edgediff.export.emit.codes import decode, encode, scales, scales_shape
from edgediff.export.emit.graph import Parameter
from edgediff.export.emit.integers import COMPUTED, KERNEL_4, PRODUCT_4, PRODUCT_8, Coding
from edgediff.export.emit.onnx_builder import Stored
from edgediff.export.emit.weights import describe, joined, refer, size_of, write_bytes
from edgediff.export.tensors import TensorFiles

BIAS = Parameter("layer.bias", (40,), "bias")


def weight_of(*shape: int) -> Parameter:
    return Parameter("layer.weight", shape, "weight")


def codes(parameter: Parameter, coding: Coding, dtype: Any, shape: tuple[int, ...], **more: Any) -> Stored:
    return Stored(parameter, f"{parameter.name}.codes", shape, dtype, coding=coding, **more)


def scales_stored(parameter: Parameter, coding: Coding, **more: Any) -> Stored:
    shape = scales_shape(parameter.shape, coding)
    return Stored(
        parameter, f"{parameter.name}.scales", shape, "float32", coding=coding, piece="scales", **more
    )


def source(folder: Path, seed: int = 0, **tensors: Array) -> TensorFiles:
    path = folder / f"x{seed}.safetensors"
    write_safetensors(path, {name.replace("_", "."): each for name, each in tensors.items()})
    return TensorFiles([path])


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def written(folder: Path, tensors: TensorFiles, *stored: Stored) -> onnx.ModelProto:
    """A model of nothing but initializers, beside its weights."""
    with (folder / "weights").open("wb") as file:
        places = write_bytes(stored, tensors, {name: name for name in tensors.entries}, file)
    model = helper.make_model(helper.make_graph([], "g", [], []))
    refer(model, stored, places, "weights")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return onnx.load(folder / "model.onnx")


def held(model: onnx.ModelProto, name: str) -> Array:
    found: Array = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))
    return found


def test_linear_transposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_stored, "_RUN", 1000)  # several runs of rows
    weight, p = normal(48, 40), weight_of(48, 40)
    model = written(
        tmp_path,
        source(tmp_path, layer_weight=weight),
        codes(p, COMPUTED, "int8", (40, 48), transposed=True),
        scales_stored(p, COMPUTED),
        Stored(p, "doubled", (48,), "float32", scale=2.0, coding=COMPUTED, piece="scales"),
    )
    found = scales(weight, COMPUTED)
    np.testing.assert_array_equal(held(model, "layer.weight.scales"), found)
    np.testing.assert_array_equal(held(model, "doubled"), 2 * found)
    stored = held(model, "layer.weight.codes")
    np.testing.assert_array_equal(stored, encode(weight, found, COMPUTED).T)
    assert stored.dtype == np.int8
    assert np.abs(stored.T * found[:, None] - weight).max() <= 0.5001 * found.max()


@pytest.mark.parametrize("run", [8 << 20, 1000, 1])
@pytest.mark.parametrize(
    ("shape", "coding", "dtype"),
    [
        ((40, 7, 3, 3), COMPUTED, "int8"),
        ((39, 7), COMPUTED, "int8"),
        ((40, 256), PRODUCT_8, "uint8"),
        ((40, 64), PRODUCT_4, "uint4"),
        ((40, 32, 3, 3), KERNEL_4, "uint4"),
        ((13, 5, 3, 3), KERNEL_4, "uint4"),  # rows of an odd number of codes share bytes
    ],
)
def test_every_layout(
    shape: tuple[int, ...], coding: Coding, dtype: Any, run: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(codes_stored, "_RUN", run)
    weight, p = normal(*shape), weight_of(*shape)
    stored = codes(p, coding, dtype, shape), scales_stored(p, coding)
    model = written(tmp_path, source(tmp_path, layer_weight=weight), *stored)
    found = scales(weight, coding)
    np.testing.assert_array_equal(held(model, "layer.weight.scales"), found)
    read = held(model, "layer.weight.codes")
    assert (read.shape, read.dtype.name) == (shape, dtype)
    np.testing.assert_array_equal(read.astype(np.int16), encode(weight, found, coding))


@pytest.mark.parametrize("coding", [PRODUCT_8, PRODUCT_4])
def test_two_forms_run_over_the_same_bytes(coding: Coding, tmp_path: Path) -> None:
    weight, x, p = normal(192, 256), normal(5, 256, seed=1), weight_of(192, 256)
    blocks = 256 // coding.block
    plain = codes(p, coding, "uint8" if coding.bits == 8 else "uint4", (192, 256)), scales_stored(p, coding)
    other = Stored(p, "packed", (192, blocks, coding.block * coding.bits // 8), "uint8", coding=coding)
    flat = Stored(p, "flat", (192 * blocks,), "float32", coding=coding, piece="scales")
    tensors, stored = source(tmp_path, layer_weight=weight), joined([plain, (other, flat)])
    with (tmp_path / "weights").open("wb") as file:
        places = write_bytes(stored, tensors, {p.name: p.name}, file)
    assert places["packed"] == places["layer.weight.codes"]
    assert places["flat"] == places["layer.weight.scales"]
    assert (tmp_path / "weights").stat().st_size == plain[0].bytes + plain[1].bytes
    assert 0 < size_of(stored) - (tmp_path / "weights").stat().st_size <= 128

    zeros = np.full((192, blocks), 128, np.uint8) if coding.bits == 8 else bytes([0x88] * (96 * blocks))
    kind = TensorProto.UINT8 if coding.bits == 8 else TensorProto.UINT4
    zero = helper.make_tensor("z", kind, (192, blocks), bytes(zeros), raw=True)
    portable = [
        helper.make_node(
            "DequantizeLinear", ["layer.weight.codes", "layer.weight.scales", "z"], ["w"],
            axis=1, block_size=coding.block,
        ),
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]  # fmt: skip
    fused = [
        helper.make_node(
            "MatMulNBits", ["x", "packed", "flat"], ["y"], domain="com.microsoft",
            K=256, N=192, bits=coding.bits, block_size=coding.block,
        )
    ]  # fmt: skip
    wanted = x @ decode(encode(weight, s := scales(weight, coding), coding), s, coding).T
    for name, nodes, own, extra in (("a", portable, plain, [zero]), ("b", fused, (other, flat), [])):
        graph = helper.make_graph(
            nodes, name,
            [helper.make_tensor_value_info("x", 1, [5, 256])],
            [helper.make_tensor_value_info("y", 1, [5, 192])], extra,
        )  # fmt: skip
        imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, ir_version=10, opset_imports=imports)
        refer(model, own, places, "weights")
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {"x": x})
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-4)


def bias_stored(scale: float) -> Stored:
    return Stored(
        BIAS, "layer.bias.codes", (40,), "int32", scale=scale, coding=COMPUTED, piece="bias",
        partner=weight_of(40, 16, 3, 3),
    )  # fmt: skip


def test_bias_as_a_convolution_of_integers_reads_it(tmp_path: Path) -> None:
    step = 0.037  # of the input's codes
    weight, bias, x = normal(40, 16, 3, 3), normal(40, seed=1), normal(1, 16, 6, 6, seed=2)
    p = weight_of(40, 16, 3, 3)
    stored = codes(p, COMPUTED, "int8", p.shape), scales_stored(p, COMPUTED), bias_stored(1 / step)
    tensors = source(tmp_path, layer_weight=weight, layer_bias=bias)
    model = written(tmp_path, tensors, *stored)
    integers, units = held(model, "layer.bias.codes"), held(model, "layer.weight.scales") * step
    assert integers.dtype == np.int32
    assert np.abs(integers * units.astype(np.float64) - bias).max() <= 0.5001 * units.max()
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
            helper.make_node(
                "QLinearConv",
                ["xq", "xs", "xz", "layer.weight.codes", "layer.weight.scales", "wz", "ys", "yz",
                 "layer.bias.codes"],
                ["yq"], pads=[1] * 4,
            ),
            helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
        ], "g",
        [helper.make_tensor_value_info("x", 1, x.shape)],
        [helper.make_tensor_value_info("y", 1, [1, 40, 6, 6])],
        [
            numpy_helper.from_array(np.float32(step), "xs"), numpy_helper.from_array(np.uint8(128), "xz"),
            numpy_helper.from_array(np.zeros(40, np.int8), "wz"),
            numpy_helper.from_array(np.float32(0.5), "ys"), numpy_helper.from_array(np.uint8(128), "yz"),
            *model.graph.initializer,
        ],
    )  # fmt: skip
    made = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    plain = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)
    reference = helper.make_graph(
        [plain], "f", graph.input, graph.output,
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    floats = helper.make_model(reference, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    (wanted,) = onnxruntime.InferenceSession(floats.SerializeToString()).run(None, {"x": x})
    # Half a step of the output, the input's error and the weights': far less than leaving the bias out.
    assert np.sqrt(np.mean((y - wanted) ** 2)) < 0.25 < 0.5 * np.sqrt(np.mean(bias**2))


def test_bias_of_a_channel_whose_weights_are_next_to_nothing(tmp_path: Path) -> None:
    weight, bias = normal(40, 16, 3, 3), normal(40, seed=1)
    weight[3], weight[4] = 0.0, 1e-25
    tensors = source(tmp_path, layer_weight=weight, layer_bias=bias)
    p = weight_of(40, 16, 3, 3)
    model = written(tmp_path, tensors, scales_stored(p, COMPUTED), bias_stored(50.0))
    back = held(model, "layer.bias.codes") * held(model, "layer.weight.scales").astype(np.float64) / 50.0
    np.testing.assert_allclose(back, bias, atol=0.001)


def test_bias_out_of_reach(tmp_path: Path) -> None:
    tensors = source(tmp_path, layer_weight=normal(40, 16, 3, 3), layer_bias=np.full(40, 3e4, np.float32))
    with pytest.raises(SourceError, match=r"x0\.safetensors: tensor layer\.bias holds 3e\+04, .* steps"):
        written(tmp_path, tensors, bias_stored(1e4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("piece", ["codes", "scales", "bias"])
def test_numbers_that_are_none(bad: float, piece: str, tmp_path: Path) -> None:
    weight, bias, p = normal(40, 16, 3, 3), normal(40), weight_of(40, 16, 3, 3)
    (bias if piece == "bias" else weight).flat[7] = bad
    tensors = source(tmp_path, layer_weight=weight, layer_bias=bias)
    stored = {
        "codes": codes(p, COMPUTED, "int8", p.shape),
        "scales": scales_stored(p, COMPUTED),
        "bias": bias_stored(1.0),
    }
    with pytest.raises(SourceError, match=r"x0\.safetensors: tensor layer\.\w+ holds NaN or Inf"):
        written(tmp_path, tensors, stored[piece])


def test_scales_that_half_precision_cannot_hold(tmp_path: Path) -> None:
    p = weight_of(8, 64)
    stored = Stored(p, "s", (8, 2), "float16", coding=PRODUCT_4, piece="scales")
    model = written(tmp_path, source(tmp_path, layer_weight=normal(8, 64)), stored)
    np.testing.assert_array_equal(held(model, "s"), scales(normal(8, 64), PRODUCT_4))
    huge = source(tmp_path, seed=1, layer_weight=1e7 * normal(8, 64))
    with pytest.raises(SourceError, match=r"x1\.safetensors: the scales of tensor layer\.weight reach"):
        written(tmp_path, huge, stored)


@pytest.mark.parametrize(
    "stored",
    [
        codes(weight_of(40, 64), PRODUCT_4, "uint8", (40, 64)),
        codes(weight_of(40, 64), PRODUCT_4, "uint4", (64, 40), transposed=True),
        Stored(weight_of(40, 64), "s", (40,), "float32", coding=PRODUCT_4, piece="scales"),
        Stored(BIAS, "b", (40,), "int32", piece="bias"),
    ],
)
def test_forms_that_no_coding_has(stored: Stored, tmp_path: Path) -> None:
    tensors = source(tmp_path, layer_weight=normal(40, 64), layer_bias=normal(40))
    with pytest.raises(ValueError, match=r"^(layer|s|b)"):
        written(tmp_path, tensors, stored)


def test_one_name_for_two_contents() -> None:
    p = weight_of(40, 64)
    with pytest.raises(ValueError, match=r"layer\.weight\.codes"):
        joined([(codes(p, PRODUCT_4, "uint4", p.shape),), (codes(p, COMPUTED, "int8", p.shape),)])


def test_each_tensor_is_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = 0
    original = codes_stored.scales_of

    def counted(*arguments: Any) -> Array:
        nonlocal searched
        searched += 1
        return original(*arguments)

    monkeypatch.setattr(codes_stored, "scales_of", counted)
    p = weight_of(40, 16, 3, 3)
    tensors = source(tmp_path, layer_weight=normal(*p.shape), layer_bias=normal(40))
    written(
        tmp_path, tensors, codes(p, COMPUTED, "int8", p.shape), scales_stored(p, COMPUTED), bias_stored(1.0)
    )
    assert searched == 1


def test_scales_of_blocks_are_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_stored, "_KEPT", 3000)
    many = [Parameter(f"layer.{i}.weight", (32, 256), "weight") for i in range(6)]
    tensors = source(tmp_path, **{f"layer_{i}_weight": normal(32, 256, seed=i) for i in range(6)})
    coder = codes_stored.Coder(tensors, {p.name: p.name for p in many})
    for p in many:
        coder.scales(p, COMPUTED)
        np.testing.assert_array_equal(coder.scales(p, PRODUCT_4), scales(tensors.whole(p.name), PRODUCT_4))
        sizes = [each.nbytes for (_, coding), each in coder._scales.items() if coding.block]
        assert sum(sizes) <= 3000
    assert len(coder._scales) == len(many) + 2


def test_a_reader_of_the_description_finds_the_weights_again(tmp_path: Path) -> None:
    weight, bias, p = normal(40, 64), normal(40, seed=1), weight_of(40, 64)
    stored = (
        codes(p, PRODUCT_8, "uint8", p.shape),
        scales_stored(p, PRODUCT_8),
        Stored(p, "turned", (64, 40), "int8", transposed=True, coding=COMPUTED),
        Stored(p, "turned.scales", (40,), "float32", coding=COMPUTED, piece="scales"),
        Stored(p, "plain", (64, 40), "float32", transposed=True),
        Stored(BIAS, "b", (40,), "int32", scale=90.0, coding=COMPUTED, piece="bias", partner=p),
    )
    model = written(tmp_path, source(tmp_path, layer_weight=weight, layer_bias=bias), *stored)
    table = describe(stored)
    assert list(table) == ["layer.weight", "layer.bias"]
    entries = [table["layer.weight"], *table["layer.weight"]["also"], table["layer.bias"]]
    assert [entry["initializer"] for entry in entries] == ["layer.weight.codes", "turned", "plain", "b"]
    for entry, original in zip(entries, (weight, weight, weight, bias), strict=True):
        read = held(model, entry["initializer"])
        assert (list(read.shape), read.dtype.name) == (entry["shape"], entry["dtype"])
        back = read.T if entry["transposed"] else read
        if "scales" not in entry:
            np.testing.assert_array_equal(back, original * entry["scale"])
            continue
        units = held(model, entry["scales"])
        if entry["block"]:
            units = np.repeat(units, entry["block"], axis=1)[:, : original.shape[1]]
        elif original.ndim == 2:
            units = units[:, None]
        made = (back.astype(np.float64) - entry["zero_point"]) * units / entry["scale"]
        assert np.abs(made - original).max() <= 0.56 * units.max() / entry["scale"]


def test_small_codes_lie_in_the_graph(tmp_path: Path) -> None:
    p = weight_of(4, 8, 3, 3)
    stored = codes(p, COMPUTED, "int8", p.shape), scales_stored(p, COMPUTED)
    sink = io.BytesIO()
    tensors = source(tmp_path, layer_weight=normal(*p.shape))
    places = write_bytes(stored, tensors, {p.name: p.name}, sink)
    assert not sink.getvalue()
    assert [len(place.inline or b"") for place in places.values()] == [4 * 8 * 9, 4 * 4]
    assert stored[0].bytes < weights.INLINE
