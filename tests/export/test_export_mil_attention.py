"""The three forms of attention: what they are made of, and that they all compute the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import TINY_TEXT, TINY_UNET, Array, difference
from export_mil import Weights, dtype, inputs_of, operations, packaged, results, snr

from edgediff.export.emit.graph import Graph, Kind
from edgediff.export.emit.mil import program
from edgediff.export.emit.mil_form import Attention, MilForm, Signature
from edgediff.export.emit.ops import Ops
from edgediff.export.networks import clip_text, unet2d_condition

pytest.importorskip("coremltools")

FORMS: tuple[Attention, ...] = ("original", "split_einsum", "split_einsum_v2")


def unet() -> Graph:
    return unet2d_condition.record(unet2d_condition.configure(TINY_UNET, "unet"))


def said(attention: Attention, graph: Graph, half: bool = True, **extents: tuple[int, ...]) -> list[Any]:
    form = MilForm(attention, half)
    return operations(program(graph, Weights(graph), form, Signature((extents,))))


@pytest.mark.parametrize("attention", FORMS)
def test_operations(attention: Attention) -> None:
    graph = unet()
    found = said(attention, graph, sample=(8, 8), encoder_hidden_states=(7,))
    kinds = Counter(op.op_type for op in found)
    layers = [node for node in graph.nodes if node.op == "attention"]
    heads = sum(int(node.attributes["heads"]) for node in layers)
    # The text comes as (B, S, C) and is turned once.
    if attention == "original":
        assert (kinds["matmul"], kinds["softmax"], kinds["einsum"]) == (2 * len(layers), len(layers), 0)
        assert kinds["transpose"] == 1
    else:
        assert (kinds["matmul"], kinds["softmax"], kinds["einsum"]) == (0, heads, 2 * heads)
        assert kinds["transpose"] == 1 + len(layers)  # keys
    # Layers, those of tokens and vectors included, are convolutions, and whole norms one operation each.
    assert kinds["conv"] == sum(node.op in ("conv", "linear", "downsample") for node in graph.nodes)
    assert kinds["linear"] == kinds["reduce_mean"] == kinds["rsqrt"] == 0
    assert kinds["layer_norm"] == sum(node.op == "layer_norm" for node in graph.nodes)
    assert kinds["instance_norm"] == sum(node.op == "group_norm" for node in graph.nodes)


@pytest.mark.parametrize("attention", FORMS)
def test_ranks(attention: Attention) -> None:
    """Four axes throughout, but where the text comes in."""
    found = said(attention, unet(), sample=(8, 8), encoder_hidden_states=(7,))
    ranks = {len(var.shape): op for op in found for var in op.outputs}
    assert set(ranks) == {3, 4}
    assert [op.op_type for op in found for var in op.outputs if len(var.shape) == 3] == ["cast", "transpose"]
    softmaxes = [op for op in found if op.op_type == "softmax"]
    assert {int(op.axis.val) for op in softmaxes} == ({-1} if attention == "original" else {1})
    if attention != "original":
        assert all(op.outputs[0].shape[2] == 1 for op in softmaxes)


@pytest.mark.parametrize("attention", FORMS)
def test_types(attention: Attention) -> None:
    """Everything computes in float16 but the angles of the time; the sides are float32."""
    found = said(attention, unet(), sample=(8, 8), encoder_hidden_states=(7,))
    single = [op for op in found for var in op.outputs if dtype(var) == "fp32"]
    assert Counter(op.op_type for op in single) == Counter(reshape=2, mul=1, cos=1, sin=1, concat=1, cast=1)
    assert Counter(op.op_type for op in found)["cast"] == 4  # picture, text, waves; the result
    wide = said(attention, unet(), False, sample=(8, 8), encoder_hidden_states=(7,))
    assert not [op for op in wide if op.op_type == "cast" or dtype(op.outputs[0]) == "fp16"]


def attending(heads: int, causal: bool) -> Graph:
    ops = Ops("attending")
    q, k, v = (ops.input(name, Kind.TOKENS, 6, f"length_{name}") for name in "qkv")
    ops.output("mixed", ops.attention(q, k, v, heads, causal), "length_q")
    return ops.graph()


def softmax_of(q: Array, k: Array, v: Array, heads: int, causal: bool) -> Array:
    """Vaswani et al. (2017), equation 1, in float64."""
    shape = (len(q), -1, heads, q.shape[2] // heads)
    query, key, value = (each.astype(np.float64).reshape(shape).swapaxes(1, 2) for each in (q, k, v))
    scores = query @ key.swapaxes(2, 3) / np.sqrt(shape[3])
    if causal:
        scores = np.where(np.tri(scores.shape[2], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ value
    return mixed.swapaxes(1, 2).reshape(q.shape)


LENGTHS = {"short": (9, 5), "a chunk": (512, 5), "and one more": (513, 4), "three chunks": (1100, 3)}


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("heads", [1, 3])
def test_numbers(attention: Attention, name: str, heads: int, tmp_path: Path) -> None:
    queries, keys = LENGTHS[name]
    graph, extents = attending(heads, False), {"q": (queries,), "k": (keys,), "v": (keys,)}
    signature = Signature((extents,), 2)
    inputs = inputs_of(graph, extents, 2)
    wanted = softmax_of(**inputs, heads=heads, causal=False)
    for half in (False, True):
        path = packaged(graph, tmp_path, MilForm(attention, half), signature)
        found = results(path, graph, signature, inputs)["mixed"]
        assert snr(found, wanted) > 45 if half else difference(found, wanted) < 1e-5


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("length", [7, 515])
def test_later_tokens_are_hidden(attention: Attention, length: int, tmp_path: Path) -> None:
    graph, extents = attending(2, True), dict.fromkeys("qkv", (length,))
    signature = Signature((extents,), 1)
    inputs = inputs_of(graph, extents, 1)
    path = packaged(graph, tmp_path, MilForm(attention, True), signature)
    found = results(path, graph, signature, inputs)["mixed"]
    assert snr(found, softmax_of(**inputs, heads=2, causal=True)) > 45
    # What is hidden has no influence at all: the last token changes nothing but its own place.
    inputs["k"][:, -1] += 30.0
    again = results(path, graph, signature, inputs)["mixed"]
    assert np.array_equal(found[:, :-1], again[:, :-1])
    assert not np.array_equal(found[:, -1], again[:, -1])


def test_chunks() -> None:
    """Queries go 512 at a time, a head at a time; the first version takes them whole."""
    graph = attending(2, False)
    extents = {"q": (1100,), "k": (3,), "v": (3,)}
    for attention, wanted in (("split_einsum", [1100]), ("split_einsum_v2", [512, 512, 76])):
        found = said(attention, graph, **extents)  # type: ignore[arg-type]
        softmaxes = [op for op in found if op.op_type == "softmax"]
        assert [op.outputs[0].shape[3] for op in softmaxes] == 2 * wanted


def test_one_mask_serves_all_layers() -> None:
    graph = clip_text.record(clip_text.configure(TINY_TEXT, "text"))
    for attention in FORMS:
        form = MilForm(attention, True)
        made = program(graph, Weights(graph), form, Signature(({"input_ids": (12,)},)))
        constants = [op for op in made.functions["main"].operations if op.op_type == "const"]
        assert [op.outputs[0].val.size for op in constants if "causal" in op.name] == [144]
