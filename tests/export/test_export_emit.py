"""The form of the emitted graphs, and a profile that replaces one lowering."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_helpers import (
    FULL_UNET,
    TINY_TEXT,
    TINY_UNET,
    build,
    difference,
    parameters_of,
    run,
    write_random,
)

from edgediff.errors import CheckFailed
from edgediff.export.checkpoint import plain_spellings
from edgediff.export.emit.graph import Kind, Node
from edgediff.export.emit.onnx import Profile, emit
from edgediff.export.emit.onnx_builder import Builder
from edgediff.export.emit.onnx_lowering import LOWERINGS
from edgediff.export.emit.ops import Ops
from edgediff.export.networks import clip_text, unet2d_condition
from edgediff.export.tensors import TensorFiles
from edgediff.export.verify import check_graph


def attention_fused(b: Builder, node: Node, x: list[str]) -> str:
    """ONNX Runtime's contributed operator: no score matrix in memory."""
    return b.node("MultiHeadAttention", *x, num_heads=int(node.attributes["heads"]), domain="com.microsoft")


FUSED = Profile("fused", lowerings={"attention": attention_fused}, domains=(("com.microsoft", 1),))


def test_a_profile_replaces_attention(tmp_path: Path) -> None:
    write_random(tmp_path / "x.safetensors", parameters_of(TINY_UNET, unet2d_condition), "float32", 0)
    graph = unet2d_condition.record(unet2d_condition.configure(TINY_UNET, "unet"))
    rng = np.random.default_rng(0)
    inputs = {
        "sample": rng.standard_normal((2, 4, 6, 5), np.float32),
        "timestep": np.array([10], np.float32),
        "encoder_hidden_states": rng.standard_normal((2, 7, 16), np.float32),
    }
    results = []
    for profile in (Profile("portable"), FUSED):
        path = build(
            graph, TensorFiles([tmp_path / "x.safetensors"]), plain_spellings, tmp_path, profile=profile
        )
        kinds = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
        assert (kinds["Softmax"] == 0) == (profile is FUSED)
        results.append(run(path, inputs)["out_sample"])
    assert difference(results[1], results[0]) < 1e-5


def test_portable_operators_of_the_whole_unet() -> None:
    graph = unet2d_condition.record(unet2d_condition.configure(FULL_UNET, "unet"))
    model = emit(graph, "fp16").model
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["InstanceNormalization"] == 61
    assert kinds["Softmax"] == 32
    assert kinds["Conv"] == 98
    assert not kinds.keys() & {"Gather", "Where", "Expand", "GroupNormalization", "Constant", "Loop", "If"}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_half_of_an_embedding_is_widened_after_the_lookup() -> None:
    graph = clip_text.record(clip_text.configure(TINY_TEXT, "text"))
    nodes = emit(graph, "fp16").model.graph.node
    gather = next(node for node in nodes if node.op_type == "Gather")
    assert gather.input[0] == "text_model.embeddings.token_embedding.weight"
    assert any(node.op_type == "Cast" and node.input[0] == gather.output[0] for node in nodes)


def test_every_operation_has_a_lowering() -> None:
    recorded = {name for name in vars(Ops) if not name.startswith("_")}
    assert recorded == set(LOWERINGS)


def test_the_rest_of_the_vocabulary(tmp_path: Path) -> None:
    """Operations that no network of this family uses in this form."""
    ops = Ops("net")
    image = ops.input("image", Kind.IMAGE, 4, "height", "width")
    vector = ops.input("vector", Kind.VECTOR, 4)
    ops.output("product", ops.multiply(image, vector), "height", "width")
    tokens = ops.to_tokens(image)
    ops.output("sum", ops.add(tokens, vector), "tokens")
    ops.output("gated", ops.geglu(image), "height", "width")
    wide = ops.concat(tokens, tokens)
    ops.output("wide", ops.to_image(wide, image), "height", "width")
    (tmp_path / "x.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    path = build(ops.graph(), TensorFiles([tmp_path / "x.safetensors"]), plain_spellings, tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 5), np.float32)
    v = np.random.default_rng(1).standard_normal((2, 4), np.float32)
    found = run(path, {"image": x, "vector": v})
    np.testing.assert_allclose(found["product"], x * v[:, :, None, None], rtol=1e-6)
    np.testing.assert_allclose(found["sum"], (x + v[:, :, None, None]).reshape(2, 4, 15).swapaxes(1, 2))
    assert found["gated"].shape == (2, 2, 3, 5)
    np.testing.assert_array_equal(found["wide"], np.concatenate([x, x], axis=1))


def test_checker_refuses_a_broken_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(CheckFailed, match=r"model\.onnx"):
        check_graph(tmp_path / "model.onnx")
