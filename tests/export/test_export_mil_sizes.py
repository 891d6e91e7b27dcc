"""Programs of several sizes: one input has enumerated shapes, and reshapes follow from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from export_cases import CONTROLS
from export_helpers import TINY_TEXT, TINY_UNET, TINY_VAE, difference
from export_mil import Weights, exact, inputs_of, packaged, results

from edgediff.errors import UnsupportedError
from edgediff.export.emit.graph import Graph
from edgediff.export.emit.mil import program
from edgediff.export.emit.mil_form import Attention, MilForm, Signature
from edgediff.export.emit.sizes import Extents
from edgediff.export.networks import autoencoder_kl, clip_text, controlnet, unet2d_condition
from edgediff.mil_spec import read_spec
from edgediff.mlpackage import open_package

pytest.importorskip("coremltools")

SIZES = ((8, 8), (8, 16), (16, 8), (4, 24))


def unet() -> Graph:
    return unet2d_condition.record(unet2d_condition.configure(TINY_UNET, "unet"))


def sampled(*sizes: Extents) -> Signature:
    return Signature(tuple({"sample": size, "encoder_hidden_states": (7,)} for size in sizes))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("attention", ["original", "split_einsum"])
def test_equal(attention: Attention, half: bool, tmp_path: Path) -> None:
    graph, signature = unet(), sampled(*SIZES)
    path = packaged(graph, tmp_path, MilForm(attention, half), signature)
    for extents in signature.extents:
        inputs = inputs_of(graph, extents, 1)
        wanted = exact(graph, tmp_path, inputs)["out_sample"]
        found = results(path, graph, signature, inputs)["out_sample"]
        assert difference(found, wanted) < (0.02 if half else 1e-4)
    spec = read_spec(open_package(path).model)
    shapes = {feature.name: set(feature.shapes) for feature in spec.inputs}
    assert shapes["sample"] == {(1, 4, *size) for size in SIZES}
    assert {feature.name: tuple(feature.shape) for feature in spec.inputs}["sample"] == (1, 4, 8, 8)
    assert not shapes["timestep"]
    assert not shapes["encoder_hidden_states"]


def test_autoencoder(tmp_path: Path) -> None:
    net = autoencoder_kl.configure(TINY_VAE, "vae")
    for graph, name in (
        (autoencoder_kl.record_decoder(net), "latent_sample"),
        (autoencoder_kl.record_encoder(net), "sample"),
    ):
        signature = Signature(tuple({name: size} for size in SIZES))
        path = packaged(graph, tmp_path, MilForm("original", False), signature)
        for extents in signature.extents:
            inputs = inputs_of(graph, extents, 1)
            wanted = exact(graph, tmp_path, inputs)
            found = results(path, graph, signature, inputs)
            assert all(difference(found[key], wanted[key]) < 1e-4 for key in wanted)


def test_few_shapes_are_computed() -> None:
    """A size is read from the first value that has it, not before every norm."""
    made = program(unet(), Weights(unet()), MilForm(), sampled(*SIZES))
    kinds = [op.op_type for op in made.functions["main"].operations]
    assert kinds.count("shape") == 2  # one for each scale
    assert kinds.count("slice_by_size") == 4
    fixed = program(unet(), Weights(unet()), MilForm(), sampled((8, 8), (8, 8)))
    assert not [op for op in fixed.functions["main"].operations if op.op_type == "shape"]


def test_refused() -> None:
    def refused(graph: Graph, signature: Signature, form: MilForm, why: str) -> None:
        weights = Weights(graph)
        with pytest.raises(UnsupportedError, match=why):
            program(graph, weights, form, signature)
        assert not weights.read

    plain = MilForm()
    refused(
        unet(), sampled(*SIZES), MilForm("split_einsum_v2"), "split_einsum_v2 cuts queries.*split_einsum does"
    )
    refused(unet(), sampled((8, 8), (9, 9)), plain, "a halving rounds")
    texts = tuple({"sample": (8, 8), "encoder_hidden_states": (n,)} for n in (7, 9))
    refused(unet(), Signature(texts), plain, "encoder_hidden_states would have several")
    text = clip_text.record(clip_text.configure(TINY_TEXT, "text"))
    refused(
        text, Signature(({"input_ids": (12,)}, {"input_ids": (7,)})), plain, "input_ids would have several"
    )
    config = CONTROLS["two levels"][0]
    graph = controlnet.record(controlnet.configure(config, "controlnet"))
    both = tuple(
        {"sample": (n, n), "controlnet_cond": (4 * n, 4 * n), "encoder_hidden_states": (5,)} for n in (8, 16)
    )
    refused(graph, Signature(both), plain, "sample and controlnet_cond would have several")


def test_one_size_may_round(tmp_path: Path) -> None:
    """Alone, every size has a program."""
    graph, signature = unet(), sampled((9, 13))
    inputs = inputs_of(graph, signature.extents[0], 1)
    path = packaged(graph, tmp_path, MilForm("split_einsum_v2", False), signature)
    wanted = exact(graph, tmp_path, inputs)["out_sample"]
    assert difference(results(path, graph, signature, inputs)["out_sample"], np.asarray(wanted)) < 1e-4
