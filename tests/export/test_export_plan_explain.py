"""What ``--explain`` prints is what the emitted graphs hold, and the bytes are those that are written."""

from __future__ import annotations

from typing import Any

import pytest
from export_helpers import TINY_UNET, model_folder

from edgediff.export.assemble import Asked, assemble
from edgediff.export.emit.integers import Quantization, Span, observed
from edgediff.export.emit.onnx import PORTABLE, emit
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.quantize.explain import explain
from edgediff.export.quantize.plan import Plan
from edgediff.export.quantize.positions import layers_of
from edgediff.export.quantize.schemes import plan_of
from edgediff.export.quantize.storage import graph_bytes, layer_bytes, plan_bytes

UNET: dict[str, Any] = {**TINY_UNET, "block_out_channels": [16, 32]}
VNNI = "mid_block.resnets.0.conv2"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = model_folder(tmp_path_factory.mktemp("explain") / "model", unet=UNET)
    found = assemble(Asked(str(folder)), lambda line: None)
    return stable_diffusion.build(found.source, found.recipe)


def quantized(plan: Plan, model: Model) -> dict[str, Quantization]:
    found = {}
    for part in model.parts:
        choices = plan.choices(part.role)
        spans = {value.id: Span(-4.0, 4.0) for value in observed(part.graph, choices)}
        found[part.role] = Quantization(choices, spans, frozenset({VNNI}))
    return found


def row(lines: list[str], scope: str, after: str = "denoiser:") -> str:
    start = next(i for i, line in enumerate(lines) if line.startswith(after))
    return next(line for line in lines[start:] if line.split()[:1] == [scope])


def test_each_layer_is_told_with_its_form_in_each_profile(model: Model) -> None:
    plan = plan_of("int8", model)
    lines = explain(plan, model, quantized(plan, model))
    kernel = row(lines, "mid_block.resnets.0.conv1")
    assert "Conv between Q and DQ" in kernel
    assert "QLinearConv, zero point -1 (AMX)" in kernel
    assert "QLinearConv, 7 bits" in kernel
    assert "a convolution inside the network" in kernel
    assert "QLinearConv, zero point 0 (VNNI)" in row(lines, VNNI)
    block = "mid_block.attentions.0.transformer_blocks.0"
    assert "MatMulIntegerToFloat" in row(lines, f"{block}.attn1.to_q")
    assert "2 MatMulIntegerToFloat" in row(lines, f"{block}.ff.net.0.proj")
    assert "MatMulIntegerToFloat" in row(lines, "mid_block.attentions.0.proj_in")  # a product beside tokens
    assert "MatMulNBits" in row(lines, f"{block}.attn2.to_k")
    assert "DQ of weights" in row(lines, f"{block}.attn2.to_k")
    assert " float " in row(lines, "conv_in")
    assert any(line.startswith("text_encoder: ") and "int8-weights" in line for line in lines)


def test_weights_alone_are_told_as_such(model: Model) -> None:
    plan = plan_of("int4-weights", model)
    lines = explain(plan, model, quantized(plan, model))
    assert "DQ of weights, Conv" in row(lines, "mid_block.resnets.0.conv1")
    assert "MatMulNBits" in row(lines, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    assert "QLinearConv" not in "\n".join(lines)


def test_every_layer_has_a_line(model: Model) -> None:
    plan = plan_of("int8-weights", model)
    text = explain(plan, model)
    for part in model.parts:
        for node in layers_of(part.graph):
            assert row(text, node.scope, f"{part.role}:")


@pytest.mark.parametrize("scheme", ["int8", "int8-weights", "int4-weights"])
def test_bytes_that_are_foretold_are_those_that_are_stored(scheme: str, model: Model) -> None:
    plan = plan_of(scheme, model)
    own = quantized(plan, model)
    for part in model.parts:
        stored = emit(part.graph, profile=ORT_CPU, quantization=own[part.role]).stored
        assert graph_bytes(part.graph, plan.choices(part.role)) == sum(each.bytes for each in stored)
    every = {role: plan.choices(role) for role in plan.layers}
    assert plan_bytes(model, every) == sum(graph_bytes(p.graph, every[p.role]) for p in model.parts)


def test_float_bytes_are_four_for_each_number(model: Model) -> None:
    for part in model.parts:
        assert graph_bytes(part.graph, {}) == 4 * sum(each.size for each in part.graph.parameters)
        stored = emit(part.graph, profile=PORTABLE).stored
        assert graph_bytes(part.graph, {}) == sum(each.bytes for each in stored)
        for node in layers_of(part.graph):
            assert layer_bytes(node, "int8") < layer_bytes(node, "float")
