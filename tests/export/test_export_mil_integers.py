"""Layers that compute with 8-bit activations and weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import TINY_UNET, Array, difference
from export_mil import Weights, dtype, exact, inputs_of, operations, packaged, results, snr

from edgediff.export.emit.graph import Graph, Kind
from edgediff.export.emit.integers import Quantization, Span, observed
from edgediff.export.emit.mil import program
from edgediff.export.emit.mil_form import MilForm, Signature, Target
from edgediff.export.emit.mil_names import mil_name
from edgediff.export.emit.ops import Ops
from edgediff.export.networks import unet2d_condition

pytest.importorskip("coremltools")

EXTENTS = {"sample": (8, 8), "encoder_hidden_states": (7,)}
CODES = {"iOS17": "constexpr_affine_dequantize", "iOS18": "constexpr_blockwise_shift_scale"}


def unet() -> Graph:
    return unet2d_condition.record(unet2d_condition.configure(TINY_UNET, "unet"))


def eight_bits(graph: Graph, width: float = 8.0, *left_out: str) -> Quantization:
    layers = [node for node in graph.nodes if node.op in ("conv", "downsample", "linear")]
    choices: Any = {node.scope: "int8" for node in layers if node.scope not in left_out}
    spans = {value.id: Span(-width, width) for value in observed(graph, choices)}
    return Quantization(choices, spans)


def product() -> Graph:
    ops = Ops("product")
    x = ops.input("x", Kind.TOKENS, 5, "length")
    ops.output("y", ops.linear(x, "layer", 6), "length")
    return ops.graph()


@pytest.mark.parametrize("target", CODES)
@pytest.mark.parametrize("half", [False, True])
def test_numbers(half: bool, target: Target, tmp_path: Path) -> None:
    """y = W x + b, where x counts in 127ths of its span and each row of W in its scale."""
    graph, signature = product(), Signature(({"x": (9,)},), 2)
    rows = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    rows[:, 0] = 2.0 ** np.arange(-3, 3)  # their largest, far beyond the others: scales of a known order
    rows[:, 1:] *= rows[:, :1] / 8
    weights = Weights(graph, **{"layer.weight": rows})
    quantization = Quantization({"layer": "int8"}, {graph.inputs[0].value.id: Span(-1.5, 2.0)})
    form = MilForm(half=half, target=target)
    path = packaged(graph, tmp_path, form, signature, weights, quantization=quantization)
    inputs = inputs_of(graph, {"x": (9,)}, 2)
    found = results(path, graph, signature, inputs)["y"]

    def counted(numbers: Array, scale: Any) -> Array:
        return np.clip(np.rint(numbers / scale), -128, 127) * scale

    given = counted(inputs["x"].astype(np.float64), 2.0 / 127)
    assert np.abs(inputs["x"]).max() > 2.0  # some is cut off
    scale = np.abs(rows).max(axis=1, keepdims=True).astype(np.float64) / 127
    wanted = given @ counted(rows, scale).T + weights.arrays["layer.bias"]
    # A code may be rounded the other way where the stored scale is another float.
    assert snr(found, wanted) > (38 if half else 45)
    plain = inputs["x"].astype(np.float64) @ rows.T + weights.arrays["layer.bias"]
    assert snr(found, plain) < 30


@pytest.mark.parametrize("target", CODES)
def test_operations(target: Target) -> None:
    """One pair for each value that is read in codes; weights are codes, biases are not."""
    graph = unet()
    quantization = eight_bits(graph, 8.0, "conv_in", "conv_out")
    form = MilForm(target=target)
    made = program(graph, Weights(graph), form, Signature((EXTENTS,)), quantization=quantization)
    found = operations(made)
    kinds = Counter(op.op_type for op in found)
    read = {node.inputs[0].id for node in graph.nodes if node.scope in quantization.choices}
    assert kinds["quantize"] == kinds["dequantize"] == len(read)
    assert kinds[CODES[target]] == len(quantization.choices)
    for op in found:
        if op.op_type == "conv":
            coded = op.weight.op.op_type == CODES[target]
            assert (
                coded
                == (op.x.op.op_type == "dequantize")
                == ("conv_in" not in op.name and "conv_out" not in op.name)
            )
            assert dtype(op.outputs[0]) == dtype(op.weight) == "fp16"
    names = {op.name for op in found if op.op_type == CODES[target]}
    assert names == {mil_name(f"{scope}.weight") for scope in quantization.choices}


def test_a_network_stays_close(tmp_path: Path) -> None:
    graph, signature = unet(), Signature((EXTENTS,))
    inputs = inputs_of(graph, EXTENTS, 1)
    wanted = exact(graph, tmp_path, inputs)["out_sample"]
    plain = packaged(graph, tmp_path, MilForm(half=False), signature)
    assert difference(results(plain, graph, signature, inputs)["out_sample"], wanted) < 1e-4
    floats = (plain / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    path = packaged(graph, tmp_path, MilForm(), signature, quantization=eight_bits(graph))
    found = results(path, graph, signature, inputs)["out_sample"]
    assert 15 < snr(found, wanted) < 45
    assert (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size < 0.45 * floats


def test_weights_of_zeros_and_tiny_ones(tmp_path: Path) -> None:
    """A channel of zeros has a scale all the same, and so has one that float16 hardly holds."""
    graph, signature = product(), Signature(({"x": (3,)},))
    rows = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    rows[1], rows[2] = 0.0, 1e-7
    weights = Weights(graph, **{"layer.weight": rows})
    quantization = Quantization({"layer": "int8"}, {graph.inputs[0].value.id: Span(0.0, 0.0)})
    inputs = inputs_of(graph, {"x": (3,)}, 1)
    for half in (False, True):
        path = packaged(graph, tmp_path, MilForm(half=half), signature, weights, quantization=quantization)
        found = results(path, graph, signature, inputs)["y"]
        bias = weights.arrays["layer.bias"]
        assert np.isfinite(found).all()
        assert np.abs(found[..., 1:3] - bias[1:3]).max() < 1e-3
