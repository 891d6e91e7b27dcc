"""The form for ONNX Runtime's CPU provider against the portable one, which others compare with diffusers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_helpers import (
    FULL_UNET,
    TINY_TEXT,
    TINY_UNET,
    TINY_VAE,
    Array,
    difference,
    random_tensor,
    run,
    write_safetensors,
)

from edgediff.export.emit.graph import Graph, Kind
from edgediff.export.emit.onnx import PORTABLE, Profile, emit
from edgediff.export.emit.onnx_builder import Storage
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.emit.ops import Ops
from edgediff.export.emit.sizes import Extents
from edgediff.export.emit.weights import joined, refer, write_bytes
from edgediff.export.networks import autoencoder_kl, clip_text, unet2d_condition
from edgediff.export.tensors import TensorFiles

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
# What the CPU provider of ONNX Runtime 1.31 has kernels for in float32, of com.microsoft.
ON_CPU = {"MultiHeadAttention", "BiasGelu", "Gelu"}
STANDARD = {
    "Add", "ArgMax", "BatchNormalization", "Cast", "Concat", "Conv", "Cos", "DepthToSpace", "Div", "Equal",
    "Erf", "Gather", "GatherND", "Gemm", "InstanceNormalization", "LayerNormalization", "MatMul", "Mul",
    "Reshape", "Resize", "Shape", "Sigmoid", "Sin", "Slice", "Split", "Transpose", "Unsqueeze",
}  # fmt: skip


def shared(
    graph: Graph, folder: Path, profiles: tuple[Profile, ...], storage: Storage = "fp32", **options: Any
) -> dict[str, Path]:
    """Every profile of a graph over one file of random weights; the paths by the profile's name."""
    rng = np.random.default_rng(0)
    tensors = {p.name: random_tensor(p, rng) for p in graph.parameters}
    write_safetensors(folder / "x.safetensors", tensors)
    emitted = {profile.name: emit(graph, storage, profile, **options) for profile in profiles}
    stored = joined(each.stored for each in emitted.values())
    with (folder / "model.onnx_data").open("wb") as file:
        places = write_bytes(
            stored, TensorFiles([folder / "x.safetensors"]), {name: name for name in tensors}, file
        )
    paths = {}
    for name, each in emitted.items():
        refer(each.model, each.stored, places, "model.onnx_data")
        paths[name] = folder / f"{name}.onnx"
        paths[name].write_bytes(each.model.SerializeToString())
    return paths


def feeds(graph: Graph, extents: Mapping[str, Extents], batch: int = 1, seed: int = 0) -> dict[str, Array]:
    """Random inputs of these extents."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for port in graph.inputs:
        channels = port.value.channels
        shape: tuple[int, ...] = (batch, channels)
        match port.value.kind:
            case Kind.IMAGE:
                shape = (batch, channels, *extents[port.name])
            case Kind.TOKENS:
                shape = (batch, *extents[port.name], channels)
            case Kind.TIME:
                found[port.name] = np.array([617.25], np.float32)
                continue
            case Kind.IDS:
                found[port.name] = rng.integers(0, 39, (batch, *extents[port.name]))
                continue
        found[port.name] = rng.standard_normal(shape, np.float32)
    return found


def kinds(path: Path) -> Counter[str]:
    """How often each operator is there."""
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def unet(**changes: Any) -> Graph:
    return unet2d_condition.record(unet2d_condition.configure({**TINY_UNET, **changes}, "unet"))


def vae(**changes: Any) -> tuple[Graph, Graph]:
    net = autoencoder_kl.configure({**TINY_VAE, **changes}, "vae")
    return autoencoder_kl.record_decoder(net), autoencoder_kl.record_encoder(net)


def text(**changes: Any) -> Graph:
    return clip_text.record(clip_text.configure({**TINY_TEXT, **changes}, "text"))


def sampled(size: Extents, words: int = 7) -> dict[str, Extents]:
    return {"sample": size, "encoder_hidden_states": (words,)}


CASES: dict[str, tuple[Graph, dict[str, Extents], int]] = {
    "unet": (unet(), sampled((8, 8)), 1),
    "odd sizes": (unet(), sampled((9, 13)), 2),
    "one head, one word": (unet(attention_head_dim=1), sampled((5, 6), 1), 3),
    "four heads of 3": (
        unet(block_out_channels=[12, 12], attention_head_dim=4, norm_num_groups=3),
        sampled((6, 10), 77),
        1,
    ),
    "linear projection, two layers": (
        unet(use_linear_projection=True, transformer_layers_per_block=2),
        sampled((7, 4), 3),
        2,
    ),
    "decoder": (vae()[0], {"latent_sample": (5, 7)}, 2),
    "encoder": (vae()[1], {"sample": (10, 14)}, 3),
    "decoder without attention": (vae(mid_block_add_attention=False)[0], {"latent_sample": (4, 4)}, 1),
    "text": (text(), {"input_ids": (12,)}, 2),
    "text, one head, gelu": (text(num_attention_heads=1, hidden_act="gelu"), {"input_ids": (5,)}, 1),
    "text, heads of 2": (text(num_attention_heads=8), {"input_ids": (1,)}, 3),
}


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_portable_form(case: str, storage: Storage, tmp_path: Path) -> None:
    graph, extents, batch = CASES[case]
    paths = shared(graph, tmp_path, (PORTABLE, ORT_CPU), storage)
    onnx.checker.check_model(str(paths["ort-cpu"]))
    inputs = feeds(graph, extents, batch)
    wanted, found = (run(paths[name], inputs) for name in ("portable", "ort-cpu"))
    assert wanted.keys() == found.keys()
    for name in wanted:
        assert difference(found[name], wanted[name]) < TOLERANCE, name


@pytest.mark.parametrize("case", CASES)
def test_operators(case: str, tmp_path: Path) -> None:
    model = emit(CASES[case][0], "fp16", ORT_CPU).model
    assert model.ir_version <= 10
    found: dict[str, set[str]] = {"": set(), "com.microsoft": set()}
    for node in model.graph.node:
        found[node.domain].add(node.op_type)
    assert found["com.microsoft"] <= ON_CPU
    assert found[""] <= STANDARD


def test_what_is_fused_in_the_whole_unet() -> None:
    graph = unet2d_condition.record(unet2d_condition.configure(FULL_UNET, "unet"))
    found = Counter(node.op_type for node in emit(graph, "fp32", ORT_CPU).model.graph.node)
    assert found["MultiHeadAttention"] == 32
    assert found["Softmax"] == 0
    assert found["BiasGelu"] == 16
    assert found["InstanceNormalization"] == found["BatchNormalization"] == 61


def test_doubling_is_woven_from_four_convolutions(tmp_path: Path) -> None:
    paths = shared(vae()[0], tmp_path, (PORTABLE, ORT_CPU))
    assert (kinds(paths["portable"])["Resize"], kinds(paths["ort-cpu"])["Resize"]) == (1, 0)
    assert kinds(paths["ort-cpu"])["DepthToSpace"] == 1


def test_doubling_read_twice_is_left_alone(tmp_path: Path) -> None:
    ops = Ops("net")
    x = ops.upsample(ops.input("x", Kind.IMAGE, 3, "height", "width"))
    ops.output("y", ops.conv(x, "conv", 2), "out_height", "out_width")
    ops.output("x2", x, "out_height", "out_width")
    graph = ops.graph()
    paths = shared(graph, tmp_path, (PORTABLE, ORT_CPU))
    inputs = feeds(graph, {"x": (3, 2)})
    wanted, found = (run(paths[name], inputs) for name in ("portable", "ort-cpu"))
    np.testing.assert_array_equal(found["x2"], inputs["x"].repeat(2, 2).repeat(2, 3))
    assert difference(found["y"], wanted["y"]) < TOLERANCE
    assert kinds(paths["ort-cpu"])["Resize"] == 1


def test_a_linear_layer_read_twice_keeps_its_bias(tmp_path: Path) -> None:
    ops = Ops("net")
    x = ops.input("x", Kind.TOKENS, 6, "tokens")
    h = ops.linear(x, "proj", 6)
    ops.output("norm", ops.layer_norm(ops.add(x, h), "norm"), "tokens")
    ops.output("gated", ops.geglu(h), "tokens")
    graph = ops.graph()
    paths = shared(graph, tmp_path, (PORTABLE, ORT_CPU))
    inputs = feeds(graph, {"x": (5,)})
    wanted, found = (run(paths[name], inputs) for name in ("portable", "ort-cpu"))
    for name in wanted:
        assert difference(found[name], wanted[name]) < TOLERANCE, name


def test_forms_that_need_other_bytes_cannot_share(tmp_path: Path) -> None:
    graph = text()
    halves, floats = emit(graph, "fp16").stored, emit(graph, "fp32").stored
    assert joined([halves, halves]) == halves
    with pytest.raises(ValueError, match=r"float16.*float32"):
        joined([halves, floats])
