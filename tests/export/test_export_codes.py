"""Weights as integers, against the quantizing operators of ONNX and ONNX Runtime, and against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from export_helpers import Array
from onnx import TensorProto, helper, numpy_helper

from edgediff.export.emit.codes import (
    decode,
    encode,
    limits,
    pack,
    scales,
    scales_of,
    scales_shape,
    zero_point,
)
from edgediff.export.emit.integers import COMPUTED, PRODUCT_4, PRODUCT_8, Coding

BLOCKS_4, BLOCKS_8 = Coding(4, 16, True), Coding(8, 16, True)
TYPES = {(8, False): TensorProto.INT8, (8, True): TensorProto.UINT8, (4, True): TensorProto.UINT4}
CASES = [
    ((6, 40), COMPUTED),
    ((6, 5, 3, 3), COMPUTED),
    ((6, 256), PRODUCT_8),
    ((6, 256), PRODUCT_4),
    ((5, 48), BLOCKS_4),
    ((5, 32, 3, 3), BLOCKS_4),
    ((5, 32, 3, 3), BLOCKS_8),
    ((5, 40, 3, 3), BLOCKS_4),  # the last block is short
    ((5, 7), BLOCKS_8),  # the only block is
]


def normal(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(nodes: list[Any], outputs: dict[str, int], opset: int = 21, **inputs: Any) -> list[Array]:
    """Outputs of a graph in ONNX Runtime, whose inputs are all constants."""
    import onnxruntime

    held = [each if isinstance(each, TensorProto) else numpy_helper.from_array(each, name)
            for name, each in inputs.items()]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [], [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()], held
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=imports)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    made: list[Array] = session.run(None, {})
    return made


def zeros_of(coding: Coding, shape: tuple[int, ...]) -> Any:
    """Zero points as the operators of ONNX want them."""
    count = int(np.prod(shape))
    kind = TYPES[coding.bits, coding.offset]
    if coding.bits == 4:
        return helper.make_tensor("z", kind, shape, bytes([0x88] * ((count + 1) // 2)), raw=True)
    return helper.make_tensor("z", kind, shape, [128 if coding.offset else 0] * count)


def settings(coding: Coding) -> dict[str, int]:
    return {"axis": 1, "block_size": coding.block} if coding.block else {"axis": 0}


@pytest.mark.parametrize(("shape", "coding"), CASES)
def test_codes_are_those_of_quantize_linear(shape: tuple[int, ...], coding: Coding) -> None:
    weight = normal(shape)
    found = scales(weight, coding)
    assert found.shape == scales_shape(shape, coding)
    codes = encode(weight, found, coding)
    kind = TYPES[coding.bits, coding.offset]
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], **settings(coding)),
        helper.make_node("Cast", ["q"], ["y"], to=TensorProto.INT32),
    ]
    if coding.bits == 4:  # the operator's own dequantization tells its codes
        nodes[1] = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **settings(coding))
        (back,) = run(nodes, {"y": 1}, w=weight, s=found, z=zeros_of(coding, found.shape))
        np.testing.assert_array_equal(back, decode(codes, found, coding))
        return
    (wanted,) = run(nodes, {"y": TensorProto.INT32}, w=weight, s=found, z=zeros_of(coding, found.shape))
    # The operator knows no symmetric range: where a clipped channel reaches -128, ours stays at -127.
    lowest = 0 if coding.offset else -127
    np.testing.assert_array_equal(codes, np.maximum(wanted, lowest))
    assert codes.dtype == (np.int8 if kind == TensorProto.INT8 else np.uint8)


@pytest.mark.parametrize(("shape", "coding"), CASES)
def test_numbers_are_those_of_dequantize_linear(shape: tuple[int, ...], coding: Coding) -> None:
    weight = normal(shape, seed=1)
    found = scales(weight, coding)
    codes = encode(weight, found, coding)
    kind = TYPES[coding.bits, coding.offset]
    raw = pack(codes).tobytes() if coding.bits == 4 else codes.tobytes()
    held = helper.make_tensor("q", kind, shape, raw, raw=True)
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **settings(coding))
    (wanted,) = run([node], {"y": 1}, q=held, s=found, z=zeros_of(coding, found.shape))
    np.testing.assert_array_equal(decode(codes, found, coding), wanted)


@pytest.mark.parametrize(("coding", "inputs"), [(PRODUCT_8, 256), (PRODUCT_4, 256), (BLOCKS_4, 48)])
def test_matmulnbits_reads_the_same_bytes(coding: Coding, inputs: int) -> None:
    weight, x = normal((24, inputs)), normal((7, inputs), seed=1)
    found = scales(weight, coding)
    assert coding.bits == 8 or (found < 0).any()  # which the operator multiplies by like others
    codes = encode(weight, found, coding)
    stored = (pack(codes) if coding.bits == 4 else codes).reshape(24, inputs // coding.block, -1)
    node = helper.make_node(
        "MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft",
        K=inputs, N=24, bits=coding.bits, block_size=coding.block,
    )  # fmt: skip
    (y,) = run([node], {"y": 1}, x=x, q=stored, s=found)
    np.testing.assert_allclose(y, x @ decode(codes, found, coding).T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (1, 1), (2, 3, 3)])
def test_two_codes_a_byte_as_onnx_has_them(shape: tuple[int, ...]) -> None:
    import ml_dtypes

    codes = np.random.default_rng(0).integers(0, 16, shape).astype(np.uint8)
    assert pack(codes).tobytes() == numpy_helper.from_array(codes.astype(ml_dtypes.uint4)).raw_data


def error(weight: Array, found: Array, coding: Coding) -> Array:
    """Squared error by output channel."""
    made = decode(encode(weight, found, coding), found, coding)
    total: Array = np.square(made.astype(np.float64) - weight).reshape(len(weight), -1).sum(1)
    return total


@pytest.mark.parametrize("draw", ["normal", "laplace", "uniform", "outlier"])
def test_no_scale_is_much_better_in_4_bits(draw: str) -> None:
    rng = np.random.default_rng(3)
    weight = rng.laplace(size=(64, 32)) if draw == "laplace" else rng.standard_normal((64, 32))
    if draw == "uniform":
        weight = rng.uniform(-1.0, 1.0, (64, 32))
    if draw == "outlier":
        weight[:, 5] *= 8.0
    weight = weight.astype(np.float32)
    own = error(weight, scales(weight, PRODUCT_4), PRODUCT_4)
    largest = np.abs(weight).max(1, keepdims=True)
    every = [
        error(weight, (sign * largest / reached).astype(np.float32), PRODUCT_4)
        for sign in (1, -1)
        for reached in np.arange(5.0, 16.0, 0.05)
    ]
    best = np.min(every, axis=0)
    assert own.sum() < 1.06 * best.sum()  # 0.25 dB
    plain = error(weight, (largest / 7.0).astype(np.float32), PRODUCT_4)
    assert own.sum() < (0.95 if draw == "outlier" else 0.8) * plain.sum()


@pytest.mark.parametrize("inputs", [256, 2880, 23040])
def test_no_scale_is_much_better_in_8_bits(inputs: int) -> None:
    weight = normal((8, inputs))
    own = error(weight, scales(weight, COMPUTED), COMPUTED)
    largest = np.abs(weight).max(1)
    every = [
        error(weight, (largest / (127.0 * part)).astype(np.float32), COMPUTED)
        for part in np.arange(0.98, 1.3, 0.01)
    ]
    assert own.sum() < 1.06 * np.min(every, axis=0).sum()
    assert (own <= every[2]).all()  # that of the largest weight


def test_what_codes_can_say_is_said_exactly() -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(-8, 8, (40, 32)).astype(np.float32)
    whole[:, 0] = -8.0
    for factor in (0.5, -0.03125):
        weight = whole * np.float32(factor)
        found = scales(weight, PRODUCT_4)
        np.testing.assert_array_equal(found, np.full((40, 1), factor))
        np.testing.assert_array_equal(decode(encode(weight, found, PRODUCT_4), found, PRODUCT_4), weight)
    whole = rng.integers(-127, 128, (40, 32)).astype(np.float32)
    whole[:, 0] = 127.0
    np.testing.assert_array_equal(scales(0.25 * whole, COMPUTED), np.full(40, 0.25))


@pytest.mark.parametrize(("shape", "coding"), CASES)
def test_error_is_half_a_step_and_order_is_kept(shape: tuple[int, ...], coding: Coding) -> None:
    weight = normal(shape, seed=2)
    found = scales(weight, coding)
    low, high = limits(coding)
    codes = encode(weight, found, coding)
    made = decode(codes, found, coding)
    steps = decode(np.full(shape, zero_point(coding) + 1), found, coding)
    inside = (weight / steps >= low) & (weight / steps <= high)
    assert inside.mean() > 0.9
    assert (np.abs(made - weight) <= 0.5000005 * np.abs(steps))[inside].all()
    counted = codes.astype(int) - zero_point(coding)
    np.testing.assert_array_equal(counted[~inside], np.where(weight / steps < 0, low, high)[~inside])
    grown = decode(encode(weight + 0.4 * np.abs(steps), found, coding), found, coding)
    assert (grown >= made).all() and (grown > made).any()


@pytest.mark.parametrize("coding", [COMPUTED, PRODUCT_8, PRODUCT_4])
@pytest.mark.parametrize("factor", [1e-45, 1e-38, 1e-29, 1e-6, 1.0, 1e6, 3e38])
def test_any_magnitude(coding: Coding, factor: float) -> None:
    weight = np.clip(normal((4, 128)), -1.0, 1.0) * np.float32(factor)
    weight[1] = 0.0
    found = scales(weight, coding)
    assert np.isfinite(found).all() and (found != 0.0).all()
    made = decode(encode(weight, found, coding), found, coding)
    assert np.isfinite(made).all() and not made[1].any()
    if factor > 1e-29:
        assert np.abs(made - weight).max() < 0.2 * factor


@pytest.mark.parametrize("coding", [COMPUTED, PRODUCT_8, PRODUCT_4])
def test_half_precision_is_read_as_it_is(coding: Coding) -> None:
    half = normal((4, 128)).astype(np.float16)
    found = scales(half, coding)
    np.testing.assert_array_equal(found, scales(half.astype(np.float32), coding))
    np.testing.assert_array_equal(encode(half, found, coding), encode(half.astype(np.float32), found, coding))


def test_channels_of_next_to_nothing_get_scales_that_a_bias_can_be_counted_in() -> None:
    weight = normal((4, 32))
    weight[1] *= 1e-20
    weight[2] = 0.0
    found = scales(weight, COMPUTED)
    assert found[1] == found.max() / 4096
    assert found[2] == found.max()
    assert not encode(weight, found, COMPUTED)[1:3].any()
    np.testing.assert_array_equal(scales(np.zeros((3, 8), np.float32), COMPUTED), np.ones(3, np.float32))


@pytest.mark.parametrize(("shape", "coding"), CASES)
def test_runs_of_rows_give_the_scales_of_the_whole(shape: tuple[int, ...], coding: Coding) -> None:
    weight = normal(shape)
    weight[-1] *= 1e-9
    np.testing.assert_array_equal(scales_of([weight[:2], weight[2:]], coding), scales(weight, coding))


def test_scales_of_blocks_fit_half_precision() -> None:
    found = scales(0.05 * normal((32, 256)), PRODUCT_4)
    np.testing.assert_array_equal(found.astype(np.float16).astype(np.float32), found)


@pytest.mark.parametrize(
    ("shape", "coding"), [((4,), PRODUCT_4), ((4, 4), Coding(4)), ((4, 4), Coding(3, 0, True))]
)
def test_what_is_no_coding(shape: tuple[int, ...], coding: Coding) -> None:
    with pytest.raises(ValueError, match="Coding"):
        scales(np.ones(shape, np.float32), coding)
