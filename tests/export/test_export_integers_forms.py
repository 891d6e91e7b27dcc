"""What graphs with integers hold, share and refuse, and what they tell a calibration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from contributed import CONTRIBUTED
from export_helpers import run
from onnx.reference import ReferenceEvaluator
from test_export_integers import FORMS, checkpoint, every, inputs_of, mixed, ratio, recorded

from edgediff.errors import UnsupportedError
from edgediff.export.emit.graph import Kind
from edgediff.export.emit.integers import (
    COMPUTED,
    KERNEL_4,
    PRODUCT_4,
    PRODUCT_8,
    Choice,
    Coding,
    Quantization,
    Span,
    coding_of,
    observed,
)
from edgediff.export.emit.onnx import PORTABLE, Profile, emit
from edgediff.export.emit.onnx_cuda import ORT_CUDA
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.emit.onnx_static import COREML_EP
from edgediff.export.emit.ops import Ops
from edgediff.export.emit.weights import joined


@pytest.mark.parametrize(("choice", "opset"), [("int8", 18), ("int8-weights", 21), ("int4-weights", 21)])
def test_the_operator_set_is_raised_for_blocks_alone(choice: Choice, opset: int) -> None:
    graph = recorded("U-Net")
    choices = every(graph, choice)
    spans = {value.id: Span(-1.0, 1.0) for value in observed(graph, choices)}
    made = emit(graph, quantization=Quantization(choices, spans))
    assert [each.version for each in made.model.opset_import] == [opset]
    assert made.model.ir_version == 10


def test_forms_share_the_bytes_of_weights() -> None:
    graph = recorded("U-Net")
    choices = {scope: choice for scope, choice in mixed(graph).items() if choice != "float"}
    spans = {value.id: Span(-1.0, 1.0) for value in observed(graph, choices)}
    made = [emit(graph, "fp32", form, quantization=Quantization(choices, spans)) for form in FORMS]
    single = sum(each.bytes for each in made[0].stored)
    assert sum(each.bytes for each in joined(each.stored for each in made)) == single
    assert single < 0.5 * sum(4 * p.size for p in graph.parameters)


@pytest.mark.parametrize(
    ("op", "channels", "choice", "coding"),
    [
        ("conv", 64, "float", None),
        ("conv", 64, "int8", COMPUTED),
        ("conv", 64, "int8-weights", COMPUTED),
        ("conv", 64, "int4-weights", KERNEL_4),
        ("conv", 48, "int4-weights", replace(KERNEL_4, block=16)),
        ("conv", 40, "int4-weights", COMPUTED),
        ("linear", 256, "int8", COMPUTED),
        ("linear", 256, "int8-weights", PRODUCT_8),
        ("linear", 320, "int8-weights", replace(PRODUCT_8, block=64)),
        ("linear", 256, "int4-weights", PRODUCT_4),
        ("linear", 40, "int8-weights", Coding(8, 40, True)),
        ("linear", 40, "int4-weights", Coding(8, 40, True)),
    ],
)
def test_coding_of_a_layer(op: str, channels: int, choice: Choice, coding: Coding | None) -> None:
    ops = Ops("g")
    if op == "conv":
        ops.conv(ops.input("x", Kind.IMAGE, channels, "h", "w"), "layer", 8)
    else:
        ops.linear(ops.input("x", Kind.TOKENS, channels, "s"), "layer", 8)
    assert coding_of(ops.graph().nodes[-1], choice) == coding


def test_observed_values_are_each_listed_once() -> None:
    ops = Ops("g")
    x = ops.input("x", Kind.TOKENS, 16, "s")
    ops.linear(x, "query", 16)
    ops.linear(x, "key", 16)
    assert observed(ops.graph(), {"query": "int8", "key": "int8"}) == (x,)


def test_profiles_without_a_form_refuse_before_anything_is_written() -> None:
    graph = recorded("U-Net")
    layer = next(node for node in graph.nodes if node.op == "conv")
    extents = {port.name: (8, 8) if port.value.kind is Kind.IMAGE else (7,) for port in graph.inputs}
    for profile, choice in ((ORT_CUDA, "int8"), (COREML_EP, "int8"), (COREML_EP, "int8-weights")):
        with pytest.raises(UnsupportedError, match=f"{profile.name}.*{layer.scope}"):
            emit(graph, "fp32", profile, extents=extents, quantization=Quantization({layer.scope: choice}))  # type: ignore[dict-item]


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["int8-weights", "int4-weights"])
def test_the_cuda_form_takes_integer_weights(choice: Choice, tmp_path: Path) -> None:
    graph = recorded("decoder")
    weights, inputs = checkpoint(graph, tmp_path), inputs_of(graph, (1, 5, 6))
    quantization = Quantization(every(graph, choice))
    found = weights.write({f.name: f for f in (PORTABLE, ORT_CUDA)}, quantization=quantization)
    wanted = run(found["portable"], inputs)["sample"]
    array = ReferenceEvaluator(str(found["ort-cuda"]), new_ops=CONTRIBUTED).run(None, inputs)[0]
    assert ratio(np.asarray(array), wanted) > 90


def test_a_layer_whose_input_was_never_seen_is_an_error() -> None:
    graph = recorded("U-Net")
    layer = next(node for node in graph.nodes if node.op == "conv")
    with pytest.raises(ValueError, match="span is not known"):
        emit(graph, quantization=Quantization({layer.scope: "int8"}))


@pytest.mark.parametrize("profile", [PORTABLE, ORT_CPU], ids=lambda profile: str(profile.name))
def test_taps_see_what_the_values_are(profile: Profile, tmp_path: Path) -> None:
    graph = recorded("U-Net")
    weights, inputs = checkpoint(graph, tmp_path), inputs_of(graph, (1, 40, 56))
    values = observed(graph, every(graph, "int8"))
    assert graph.outputs[0].value in values
    made = weights.write({"tapped": profile}, taps=(graph.inputs[0].value, *values, values[0]))["tapped"]
    found, plain = run(made, inputs), run(weights.write({"plain": profile})["plain"], inputs)
    name, last = graph.outputs[0].name, graph.outputs[0].value.id
    assert len(found) == 1 + 3 * len({graph.inputs[0].value, *values})
    assert ratio(found[name], plain[name]) > 100
    assert found[f"tap.{last}.low"] == found[name].min()
    assert found[f"tap.{last}.high"] == found[name].max()
    noise, numbers = inputs["sample"], found[f"tap.{graph.inputs[0].value.id}.sample"]
    assert numbers.size == noise.size
    assert (np.sort(numbers) == np.sort(noise, axis=None)).all()


def test_the_sample_of_a_large_value_comes_from_all_of_it(tmp_path: Path) -> None:
    ops = Ops("g")
    x = ops.input("x", Kind.IMAGE, 30, "h", "w")
    ops.output("y", ops.conv(x, "layer", 1, kernel=1), "h", "w")
    path = checkpoint(ops.graph(), tmp_path).write({"": PORTABLE}, taps=[x])[""]
    places = np.arange(30 * 120 * 120, dtype=np.float32).reshape(1, 30, 120, 120)
    seen = run(path, {"x": places})[f"tap.{x.id}.sample"].astype(np.int64)
    assert 4096 <= seen.size <= 30 * 4096
    for extent, step in ((30, 120 * 120), (120, 120), (120, 1)):
        assert len(np.unique(seen // step % extent)) == extent


def test_every_tap_is_listed_as_an_output() -> None:
    graph = recorded("U-Net")
    values = observed(graph, every(graph, "int8"))
    made = emit(graph, "fp32", ORT_CPU, taps=values)
    assert [each.name for each in made.outputs] == [each.name for each in made.model.graph.output]
    assert len(made.outputs) == 1 + 3 * len(values)
