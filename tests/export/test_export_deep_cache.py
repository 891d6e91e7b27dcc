"""The shallow form of a U-Net: which layers it has, what it reads, and its share of the work at full size."""

from __future__ import annotations

import pytest

from benchmarks.full_size import MODELS
from edgediff.errors import UnsupportedError
from edgediff.export.emit.deep_cache import deep_cache
from edgediff.export.emit.flops import flops
from edgediff.export.emit.graph import Graph
from edgediff.export.networks import autoencoder_tiny, unet2d_condition


def recorded(kind: str) -> Graph:
    return unet2d_condition.record(unet2d_condition.configure(MODELS[kind]["unet"], "config.json"))


@pytest.mark.parametrize(("kind", "side", "share"), [("sd15", 64, 0.079), ("sdxl", 128, 0.015)])
def test_full_size(kind: str, side: int, share: float) -> None:
    graph = recorded(kind)
    whole, shallow = deep_cache(graph)
    assert whole.nodes == graph.nodes and whole.outputs[:1] == graph.outputs == shallow.outputs
    assert [port.name for port in whole.outputs] == ["out_sample", "deep_features"]
    last = len(MODELS[kind]["unet"].get("block_out_channels", [0] * 4)) - 1
    scopes = {node.scope.split(".resnets")[0].split(".attentions")[0] for node in shallow.nodes}
    assert {scope for scope in scopes if "block" in scope} == {f"up_blocks.{last}"}
    assert not any("resnets.0" in node.scope or "resnets.1" in node.scope for node in shallow.nodes)
    extents = {"sample": (side, side), "encoder_hidden_states": (77,), "deep_features": (side, side)}
    works = []
    for each in (shallow, whole):
        names = {port.name for port in each.inputs}
        works.append(flops(each, {name: e for name, e in extents.items() if name in names})["total"])
    assert works[0] / works[1] == pytest.approx(share, abs=5e-4)


def test_networks_without_skips() -> None:
    graph = autoencoder_tiny.record_decoder(autoencoder_tiny.configure({}, "config.json"))
    with pytest.raises(UnsupportedError, match="--step-cache"):
        deep_cache(graph)
