"""Graphs with integers against the float graph with rounded numbers, which float operators compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from export_helpers import TINY_TEXT, TINY_UNET, TINY_VAE, Array, random_tensor, run, write_safetensors

from edgediff.export.emit.codes import decode, encode, scales
from edgediff.export.emit.graph import Graph, Kind, Node, Parameter
from edgediff.export.emit.integers import (
    Choice,
    Coding,
    Quantization,
    Span,
    coding_of,
    observed,
)
from edgediff.export.emit.onnx import PORTABLE, Profile, emit
from edgediff.export.emit.onnx_builder import Builder, Storage
from edgediff.export.emit.onnx_fused import ORT_CPU, ORT_CPU_AVX2
from edgediff.export.emit.onnx_lowering import LOWERINGS, Lowering
from edgediff.export.emit.ops import Ops
from edgediff.export.emit.weights import joined, refer, write_bytes
from edgediff.export.networks import autoencoder_kl, clip_text, unet2d_condition
from edgediff.export.tensors import TensorFiles

FORMS = (PORTABLE, ORT_CPU, ORT_CPU_AVX2)
# Wide enough that there are blocks of 16 and 32, and channels that no block divides.
WIDE: dict[str, Any] = {
    **TINY_UNET,
    "block_out_channels": [24, 64],
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
NETWORKS: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "U-Net": (unet2d_condition, WIDE),
    "linear projection, a second text": (
        unet2d_condition,
        {
            **WIDE,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 29,
        },
    ),
    "decoder": (autoencoder_kl, {**TINY_VAE, "block_out_channels": [16, 32]}),
    "encoder": (autoencoder_kl, {**TINY_VAE, "block_out_channels": [16, 32]}),
    "text encoder": (clip_text, {**TINY_TEXT, "hidden_size": 32, "intermediate_size": 48}),
}
SIZES = {"even": (1, 8, 8), "odd, two": (2, 9, 13)}


def recorded(name: str) -> Graph:
    network, config = NETWORKS[name]
    shape = network.configure(config, "config.json")
    if network is autoencoder_kl:
        return network.record_encoder(shape) if name == "encoder" else network.record_decoder(shape)  # type: ignore[no-any-return]
    return network.record(shape)  # type: ignore[no-any-return]


def inputs_of(graph: Graph, size: tuple[int, int, int]) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    batch, *extents = size
    found: dict[str, Array] = {}
    for port in graph.inputs:
        channels = port.value.channels
        match port.value.kind:
            case Kind.IMAGE:
                found[port.name] = rng.standard_normal((batch, channels, *extents), np.float32)
            case Kind.TOKENS:
                found[port.name] = rng.standard_normal((batch, 7, channels), np.float32)
            case Kind.VECTOR:
                found[port.name] = rng.standard_normal((batch, channels), np.float32)
            case Kind.IDS:
                found[port.name] = rng.integers(0, 39, (batch, 12))
            case _:
                found[port.name] = np.array([617.25], np.float32)
    return found


@dataclass(frozen=True)
class Checkpoint:
    """Random weights of a graph, and what is written with them."""

    graph: Graph
    folder: Path
    tensors: Mapping[str, Array]

    def write(
        self, profiles: Mapping[str, Profile], storage: Storage = "fp32", **options: Any
    ) -> dict[str, Path]:
        """Every profile over one file of weights."""
        write_safetensors(self.folder / "x.safetensors", self.tensors)
        emitted = {name: emit(self.graph, storage, each, **options) for name, each in profiles.items()}
        files = TensorFiles([self.folder / "x.safetensors"])
        stem = f"model{len(list(self.folder.iterdir()))}"
        with (self.folder / stem).open("wb") as file:
            stored = joined(each.stored for each in emitted.values())
            places = write_bytes(stored, files, {name: name for name in self.tensors}, file)
        paths = {}
        for name, each in emitted.items():
            refer(each.model, each.stored, places, stem)
            paths[name] = self.folder / f"{stem}-{name}.onnx"
            paths[name].write_bytes(each.model.SerializeToString())
        return paths

    def spans(self, inputs: Mapping[str, Array], choices: Mapping[str, Choice]) -> dict[int, Span]:
        """What the float graph's values reach on these inputs."""
        values = observed(self.graph, choices)
        found = run(self.write({"float": ORT_CPU}, taps=values)["float"], inputs)
        return {
            value.id: Span(float(found[f"tap.{value.id}.low"]), float(found[f"tap.{value.id}.high"]))
            for value in values
        }

    def rounded(self, codings: Mapping[str, Coding]) -> Checkpoint:
        """The same with the numbers that integers stand for."""
        made = dict(self.tensors)
        for name, coding in codings.items():
            whole = self.tensors[name]
            units = scales(whole, coding)
            made[name] = decode(encode(whole, units, coding), units, coding)
        return replace(self, tensors=made)


def checkpoint(graph: Graph, folder: Path) -> Checkpoint:
    rng = np.random.default_rng(0)
    return Checkpoint(graph, folder, {p.name: random_tensor(p, rng) for p in graph.parameters})


def rounding(quantization: Quantization, signed: bool, unless: tuple[str, ...] = ()) -> Profile:
    """The float graph with rounded activations where layers compute with integers: plain arithmetic.

    What the layers ``unless`` make is not rounded.
    """

    def rounded(b: Builder, tensor: str, span: Span) -> str:
        scale, zero = span.signed() if signed else span.unsigned()
        low, high = (-128.0, 127.0) if signed else (0.0, 255.0)
        codes = b.node("Round", b.node("Div", tensor, b.floats(scale)))
        inside = b.node("Clip", codes, b.floats(low - zero), b.floats(high - zero))
        return b.node("Mul", inside, b.floats(scale))

    def around(lowering: Lowering) -> Lowering:
        def lower(b: Builder, node: Node, x: list[str]) -> str:
            if quantization.choices.get(node.scope) != "int8":
                return lowering(b, node, x)
            made = lowering(b, node, [rounded(b, x[0], quantization.spans[node.inputs[0].id])])
            if node.op == "linear" or node.scope in unless:
                return made
            return rounded(b, made, quantization.spans[node.output.id])

        return lower

    ops = ("conv", "downsample", "linear")
    return replace(PORTABLE, lowerings={op: around(LOWERINGS[op]) for op in ops})


def every(
    graph: Graph, choice: Choice, but: Callable[[Node], bool] = lambda node: False
) -> dict[str, Choice]:
    ops = ("conv", "downsample", "linear", "embedding")
    return {node.scope: choice for node in graph.nodes if node.op in ops and not but(node)}


def codings(graph: Graph, choices: Mapping[str, Choice]) -> dict[str, Coding]:
    found = {}
    for node in graph.nodes:
        coding = coding_of(node, choices.get(node.scope, "float"))
        if coding is not None:
            found[weight(node).name] = coding
    return found


def weight(node: Node) -> Parameter:
    found = node.parameter("weight")
    assert found is not None
    return found


def ratio(found: Array, wanted: Array) -> float:
    """Signal to noise in decibels."""
    assert found.shape == wanted.shape
    noise = float(np.square(found.astype(np.float64) - wanted).mean())
    return 10 * np.log10(float(np.square(wanted.astype(np.float64)).mean()) / max(noise, 1e-30))


def optimised(path: Path) -> Counter[str]:
    """The operators that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "x.bin")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(path.with_suffix(".optimised"), load_external_data=False)
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("choice", ["int8-weights", "int4-weights"])
def test_integer_weights_are_the_float_graph_with_the_numbers_they_stand_for(
    name: str, size: str, choice: Choice, tmp_path: Path
) -> None:
    graph = recorded(name)
    weights, inputs = checkpoint(graph, tmp_path), inputs_of(graph, SIZES[size])
    choices = every(graph, choice)
    found = weights.write({f.name: f for f in FORMS}, quantization=Quantization(choices))
    wanted = run(weights.rounded(codings(graph, choices)).write({"float": PORTABLE})["float"], inputs)
    for form in FORMS:
        # MatMulNBits rounds activations where weights have 8 bits.
        least = 35 if form.integers.direct and choice == "int8-weights" else 90
        for output, array in run(found[form.name], inputs).items():
            assert ratio(array, wanted[output]) > least, (form.name, output)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
def test_int8_loses_what_rounding_weights_and_activations_loses(name: str, size: str, tmp_path: Path) -> None:
    """Of a whole network: one number that is rounded the other way changes all that follow."""
    graph = recorded(name)
    weights, inputs = checkpoint(graph, tmp_path), inputs_of(graph, SIZES[size])
    choices = every(graph, "int8")
    spans = weights.spans(inputs, choices)
    quantization = Quantization(choices, spans, vnni=frozenset(list(choices)[::2]))
    found = weights.write({f.name: f for f in FORMS}, quantization=quantization)
    rounded = weights.rounded(codings(graph, choices))
    plain = run(weights.write({"float": PORTABLE})["float"], inputs)
    for form in FORMS:
        profile = rounding(quantization, form.integers.signed)
        wanted = run(rounded.write({"float": profile})["float"], inputs)
        spare = 7 if form.integers.narrow else 2
        for output, array in run(found[form.name], inputs).items():
            lost = ratio(wanted[output], plain[output])
            assert 20 < lost < 40
            assert ratio(array, plain[output]) > lost - spare, (form.name, output)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["U-Net", "encoder", "decoder"])
def test_every_layer_in_int8_is_that_layer_rounded(name: str, tmp_path: Path) -> None:
    graph = recorded(name)
    weights, inputs = checkpoint(graph, tmp_path), inputs_of(graph, SIZES["odd, two"])
    spans = weights.spans(inputs, every(graph, "int8"))
    for node in kinds_of_layers(graph):
        choices: dict[str, Choice] = {node.scope: "int8"}
        quantization = Quantization(choices, spans)
        found = weights.write({f.name: f for f in (PORTABLE, ORT_CPU)}, quantization=quantization)
        found["vnni"] = weights.write(
            {"": ORT_CPU}, quantization=replace(quantization, vnni=frozenset(choices))
        )[""]
        rounded = weights.rounded(codings(graph, choices))
        for form, signed in (("portable", True), ("ort-cpu", False), ("vnni", False)):
            profile = rounding(quantization, signed, unless=() if signed else between(graph, node))
            wanted = run(rounded.write({"float": profile})["float"], inputs)
            for output, array in run(found[form], inputs).items():
                assert ratio(array, wanted[output]) > 50, (node.scope, form, output)
        for path in tmp_path.iterdir():
            path.unlink()


def kinds_of_layers(graph: Graph) -> list[Node]:
    """Of the layers with the same neighbours, one."""
    found: dict[Any, Node] = {}
    for node in graph.nodes:
        if node.op in ("conv", "downsample", "linear"):
            before, after = graph.producer(node.inputs[0]), graph.consumers(node.output)
            kind = (before and before.op, node.op, node.attributes.get("kernel"), *(n.op for n in after))
            found.setdefault(kind, node)
    return list(found.values())


def between(graph: Graph, node: Node) -> tuple[str, ...]:
    """The scope of a 1x1 convolution beside tokens: a product, which rounds its input alone."""
    if node.op != "conv" or node.attributes["kernel"] != 1:
        return ()
    before, after = graph.producer(node.inputs[0]), graph.consumers(node.output)
    tokens = (before is not None and before.op == "to_image") or [n.op for n in after] == ["to_tokens"]
    return (node.scope,) if tokens else ()


def test_onnx_runtime_runs_the_operators_that_are_fast(tmp_path: Path) -> None:
    graph = recorded("U-Net")
    weights = checkpoint(graph, tmp_path)
    inputs, choices = inputs_of(graph, SIZES["even"]), every(graph, "int8")
    spans = weights.spans(inputs, choices)
    found = weights.write(
        {f.name: f for f in FORMS}, quantization=Quantization(choices, spans, frozenset(list(choices)[::2]))
    )
    convolutions = sum(node.op in ("conv", "downsample") for node in graph.nodes)
    products = sum(between(graph, node) != () for node in graph.nodes)
    linear = sum(node.op == "linear" for node in graph.nodes)
    gates = sum(node.op == "geglu" for node in graph.nodes)
    assert products and gates
    for name in (ORT_CPU.name, ORT_CPU_AVX2.name):
        operators = optimised(found[name])
        assert operators["QLinearConv"] == convolutions - products
        assert operators["MatMulIntegerToFloat"] == linear + products + gates
        # Everything about weights is computed at load.
        folded = ("Neg", "BitwiseNot", "QLinearMatMul", "Round", "Cast", "Div", "Split", "Conv", "MatMul")
        assert {kind: operators[kind] for kind in folded if operators[kind]} == {}
    assert optimised(found[PORTABLE.name])["QLinearConv"] > 0.8 * convolutions
    model = onnx.load(found[PORTABLE.name], load_external_data=False)
    assert {each.domain for each in model.opset_import} == {""}


@pytest.mark.parametrize("name", ["U-Net", "decoder"])
def test_all_choices_in_one_graph(name: str, tmp_path: Path) -> None:
    graph = recorded(name)
    weights, inputs = checkpoint(graph, tmp_path), inputs_of(graph, SIZES["odd, two"])
    choices = mixed(graph)
    spans = weights.spans(inputs, choices)
    found = weights.write({f.name: f for f in FORMS}, quantization=Quantization(choices, spans))
    plain = run(weights.write({"float": PORTABLE})["float"], inputs)
    arrays = {form.name: run(found[form.name], inputs) for form in FORMS}
    for output, wanted in plain.items():
        lost = {form: ratio(array[output], wanted) for form, array in arrays.items()}
        assert min(lost.values()) > 10
        assert max(lost.values()) - min(lost.values()) < 4


def test_a_relu_between_convolutions_is_the_quantizer(tmp_path: Path) -> None:
    ops = Ops("g")
    x = ops.input("x", Kind.IMAGE, 16, "h", "w")
    first = ops.relu(ops.conv(x, "first", 24))
    ops.output("y", ops.conv(ops.conv(first, "second", 16), "third", 8), "h", "w")
    weights = checkpoint(ops.graph(), tmp_path)
    inputs, choices = inputs_of(weights.graph, SIZES["odd, two"]), every(weights.graph, "int8")
    quantization = Quantization(choices, weights.spans(inputs, choices))
    path = weights.write({"": ORT_CPU}, quantization=quantization)[""]
    operators = optimised(path)
    assert operators["QLinearConv"] == 3
    assert operators["Relu"] == 0
    assert operators["QuantizeLinear"] == operators["DequantizeLinear"] == 1
    rounded = weights.rounded(codings(weights.graph, choices))
    # The float graph rounds what goes into the ReLU as well.
    wanted = run(rounded.write({"": rounding(quantization, False, unless=("first",))})[""], inputs)
    assert ratio(run(path, inputs)["y"], wanted["y"]) > 45


def mixed(graph: Graph) -> dict[str, Choice]:
    kinds: tuple[Choice, ...] = ("int8", "int8-weights", "int4-weights", "float")
    return {scope: kinds[i % 4] for i, scope in enumerate(every(graph, "float"))}
