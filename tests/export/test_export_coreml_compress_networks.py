"""Compression of programs that the emitter makes: every layer but the edges, and what it does to results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_cases import TEXTS, UNETS
from export_mil import Weights, inputs_of, results

from edgediff.export.coreml.compress import compress, weights_of
from edgediff.export.coreml.compress_codes import coded
from edgediff.export.coreml.compression import edges
from edgediff.export.coreml.schemes import BYTES, PALETTES, Scheme, scheme_of
from edgediff.export.emit.graph import Graph
from edgediff.export.emit.integers import Quantization, Span
from edgediff.export.emit.mil import program
from edgediff.export.emit.mil_form import MilForm, Signature
from edgediff.export.emit.mil_model import to_model
from edgediff.export.emit.mil_names import mil_name
from edgediff.export.networks import clip_text, unet2d_condition
from edgediff.export.quantize.positions import layers_of, weight_of

pytest.importorskip("coremltools")
pytestmark = pytest.mark.slow
CONFIG, BATCH, SIZE = UNETS["three levels, odd"]
EXTENTS = {"sample": SIZE, "encoder_hidden_states": (5,)}
SIGNATURE = Signature((EXTENTS,), batch=BATCH)


@pytest.fixture(scope="module")
def unet() -> Graph:
    return unet2d_condition.record(unet2d_condition.configure(json.loads(json.dumps(CONFIG)), "unet"))


def layers(graph: Graph) -> set[str]:
    return {mil_name(weight_of(node).name) for node in layers_of(graph)}


def package(graph: Graph, scheme: Scheme | None, folder: Path, weights: Weights) -> Path:
    form = MilForm("split_einsum")
    made = program(graph, weights, form, SIGNATURE)
    if scheme is not None:
        made = compress(made, scheme, target=form.target, keep=edges(graph), threshold=0)
    path = folder / f"{scheme.name if scheme else 'plain'}.mlpackage"
    to_model(made, form).save(str(path))
    return path


def test_every_layer_but_those_next_to_latents_is_compressed(unet: Graph) -> None:
    made = program(unet, Weights(unet), MilForm(), SIGNATURE)
    assert {"conv_in__weight", "conv_out__weight"} <= edges(unet) < layers(unet)
    assert set(weights_of(made, 0)) == layers(unet)
    compress(made, PALETTES[4], target="iOS17", keep=edges(unet), threshold=0)
    assert set(weights_of(made, 0)) == edges(unet)


def test_tables_of_words_stay() -> None:
    config = next(iter(TEXTS.values()))[0]
    graph = clip_text.record(clip_text.configure(json.loads(json.dumps(config)), "text_encoder"))
    made = program(graph, Weights(graph), MilForm(), Signature(({"input_ids": (11,)},)))
    found = set(weights_of(made, 0))
    assert found == {mil_name(weight_of(node).name) for node in layers_of(graph) if node.op != "embedding"}
    assert len(layers(graph) - found) >= 1


def test_the_interpreter_gives_what_decoded_weights_give(unet: Graph, tmp_path: Path) -> None:
    """A network of palettes is the network whose weights are what the palettes decode to."""
    inputs = inputs_of(unet, EXTENTS, BATCH)
    weights, scheme = Weights(unet), PALETTES[4]
    names = [weight_of(node).name for node in layers_of(unet)]
    changed = {n: coded(weights.arrays[n], scheme) for n in names if mil_name(n) not in edges(unet)}
    found = results(package(unet, scheme, tmp_path, weights), unet, SIGNATURE, inputs)
    wanted = results(package(unet, None, tmp_path, Weights(unet, **changed)), unet, SIGNATURE, inputs)
    for name, value in wanted.items():
        assert np.array_equal(found[name], value), name


def test_layers_that_compute_with_integers_are_left_as_they_are(unet: Graph) -> None:
    node = next(node for node in layers_of(unet) if node.scope.endswith("to_q"))
    read = Quantization({node.scope: "int8"}, {node.inputs[0].id: Span(-4.0, 4.0)})
    made = program(unet, Weights(unet), MilForm(), SIGNATURE, quantization=read)
    own = mil_name(weight_of(node).name)
    assert set(weights_of(made, 0)) == layers(unet) - {own}
    compress(made, scheme_of("int8"), target="iOS17", keep=edges(unet), threshold=0)
    assert set(weights_of(made, 0)) == edges(unet)
    kinds = [op.op_type for function in made.functions.values() for op in function.operations]
    assert kinds.count("constexpr_affine_dequantize") == len(layers(unet)) - len(edges(unet))
    assert BYTES.kind == "linear"
