"""Wider heads for OpenVINO give what the portable form gives, in float and over integers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from export_helpers import FULL_UNET, TINY_UNET, difference, run, write_safetensors
from export_mil import Weights, inputs_of

from edgediff.export.emit.integers import LAYERS, Choice, Quantization, Span, observed
from edgediff.export.emit.onnx import emit
from edgediff.export.emit.onnx_lowering import LOWERINGS
from edgediff.export.emit.onnx_openvino import OPENVINO
from edgediff.export.emit.reduce import parse, reduced
from edgediff.export.emit.weights import write_weights
from edgediff.export.networks import unet2d_condition
from edgediff.export.tensors import TensorFiles

LEVELS: dict[str, Any] = {
    **TINY_UNET,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
NARROW = replace(OPENVINO, lowerings={**OPENVINO.lowerings, "attention": LOWERINGS["attention"]})


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("text", [None, "tiles:2@1", "pooled:2@1"])
def test_same_result(text: str | None, integers: bool, tmp_path: Path) -> None:
    graph = unet2d_condition.record(unet2d_condition.configure(LEVELS, "unet"))
    graph = graph if text is None else reduced(graph, parse(text))
    layers = [node.scope for node in graph.nodes if node.op in LAYERS and "attn1" in node.scope]
    choices: dict[str, Choice] = dict.fromkeys(layers, "int8") if integers else {}
    spans = {value.id: Span(-3.0, 3.0) for value in observed(graph, choices)}
    weights = Weights(graph)
    write_safetensors(tmp_path / "x.safetensors", weights.arrays)
    tensors, names = TensorFiles([tmp_path / "x.safetensors"]), {name: name for name in weights.arrays}
    inputs = inputs_of(graph, {"sample": (9, 11), "encoder_hidden_states": (7,)}, 2)
    found = []
    for name, profile in (("narrow", NARROW), ("wide", OPENVINO)):
        made = emit(graph, "fp32", profile, quantization=Quantization(choices, spans))
        with (tmp_path / f"{name}.data").open("wb") as file:
            write_weights(made.model, made.stored, tensors, names, file, f"{name}.data")
        (tmp_path / f"{name}.onnx").write_bytes(made.model.SerializeToString())
        found.append(run(tmp_path / f"{name}.onnx", inputs)["out_sample"])
        padded = Counter(node.op_type for node in made.model.graph.node)["Pad"]
        # Queries and keys of four layers; of integers, codes and scales.
        assert padded == (0 if profile is NARROW else 4 * 2 * (2 if integers else 1))
    assert difference(found[1], found[0]) < 1e-5


def test_where_it_pays() -> None:
    """Stable Diffusion 1.5: heads of 40, 80 and 160 channels; the five layers of the first are widened."""
    graph = unet2d_condition.record(unet2d_condition.configure(FULL_UNET, "unet"))
    kinds = Counter(node.op_type for node in emit(graph, "fp16", OPENVINO).model.graph.node)
    assert kinds["Pad"] == 5 * 2
