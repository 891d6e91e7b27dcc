"""The typed graph and the passes over it, with published figures."""

from __future__ import annotations

import pytest
from export_helpers import FULL_TEXT, FULL_UNET, FULL_VAE, TINY_UNET

from edgediff.errors import UnsupportedError
from edgediff.export.emit.flops import flops
from edgediff.export.emit.graph import Graph, Kind
from edgediff.export.emit.ops import Ops
from edgediff.export.emit.show import show
from edgediff.export.emit.sizes import sizes
from edgediff.export.networks import autoencoder_kl, clip_text, unet2d_condition


def unet() -> Graph:
    return unet2d_condition.record(unet2d_condition.configure(FULL_UNET, "unet"))


def millions(graph: Graph) -> float:
    return sum(parameter.size for parameter in graph.parameters) / 1e6


def test_unet_work_and_parameters() -> None:
    graph = unet()
    assert millions(graph) == pytest.approx(859.52, abs=0.01)
    assert len(graph.parameters) == 686
    work = flops(graph, {"sample": (64, 64), "encoder_hidden_states": (77,)})
    billions = {name: round(count / 1e9) for name, count in work.items()}
    assert billions == {"conv": 444, "linear": 233, "attention": 126, "total": 803}
    twice = flops(graph, {"sample": (64, 64), "encoder_hidden_states": (77,)}, batch=2)
    assert twice["conv"] == 2 * work["conv"]


def test_other_networks_work_and_parameters() -> None:
    vae = autoencoder_kl.configure(FULL_VAE, "vae")
    decoder = autoencoder_kl.record_decoder(vae)
    encoder = autoencoder_kl.record_encoder(vae)
    text = clip_text.record(clip_text.configure(FULL_TEXT, "text_encoder"))
    assert (round(millions(decoder), 1), round(millions(encoder), 1)) == (49.5, 34.2)
    assert round(millions(text), 1) == 123.1
    assert round(flops(decoder, {"latent_sample": (64, 64)})["total"] / 1e9) == 2515
    assert round(flops(encoder, {"sample": (512, 512)})["total"] / 1e9) == 1117
    assert round(flops(text, {"input_ids": (77,)})["total"] / 1e9, 1) == 13.3


def test_consumers_and_producer_find_the_text_keys_and_values() -> None:
    graph = unet()
    text = next(port.value for port in graph.inputs if port.name == "encoder_hidden_states")
    readers = graph.consumers(text)
    assert len(readers) == 32
    assert {reader.op for reader in readers} == {"linear"}
    assert all(reader.scope.endswith(("attn2.to_k", "attn2.to_v")) for reader in readers)
    assert graph.producer(text) is None
    assert all(graph.producer(reader.output) is reader for reader in readers)
    assert graph.consumers(graph.outputs[0].value) == ()


def test_sizes_round_as_the_halvings_do() -> None:
    config = {**TINY_UNET, "sample_size": None}
    graph = unet2d_condition.record(unet2d_condition.configure(config, "unet"))
    known = sizes(graph, {"sample": (9, 13), "encoder_hidden_states": (5,)})
    by_op = {node.op: known[node.output.id] for node in graph.nodes}
    assert by_op["downsample"] == (5, 7)
    assert by_op["upsample_like"] == (9, 13)
    assert by_op["to_tokens"] == (35,)
    assert known[graph.outputs[0].value.id] == (9, 13)


def test_show_lists_every_node() -> None:
    graph = unet2d_condition.record(unet2d_condition.configure(TINY_UNET, "unet"))
    lines = list(show(graph))
    assert len(lines) == 1 + len(graph.inputs) + len(graph.nodes) + len(graph.outputs)
    assert "%0 image[4] = input sample(height, width)" in lines
    assert any(line.endswith("kernel=3  # down_blocks.0.resnets.0.conv1") for line in lines)


def test_kinds_and_names_are_checked() -> None:
    ops = Ops("net")
    image = ops.input("sample", Kind.IMAGE, 6, "height", "width")
    with pytest.raises(TypeError, match="expected tokens"):
        ops.layer_norm(image, "norm")
    with pytest.raises(ValueError, match="6 channels and 8 channels"):
        ops.add(image, ops.conv(image, "conv", 8))
    with pytest.raises(ValueError, match=r"conv\.weight: declared as"):
        ops.conv(image, "conv", 9)
    with ops.scope("deep.er"), pytest.raises(UnsupportedError, match=r"deep\.er: 6 channels .* 4 groups"):
        ops.group_norm(image, "norm", 4, 1e-5)
