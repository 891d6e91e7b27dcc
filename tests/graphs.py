"""Small ONNX graphs, made by hand: IR version 10, opset 17."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import tiny

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(name: str, dims: list[str | int], kind: int = FLOAT) -> Any:
    """Return a graph's input or output."""
    return helper.make_tensor_value_info(name, kind, dims)


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], **weights: Any) -> bytes:
    """Return a serialised model; ``weights`` are its initializers."""
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    built = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(built, full_check=True)
    data: bytes = built.SerializeToString()
    return data


def doubling() -> bytes:
    """``y = 2 x`` for x of shape (batch, 3)."""
    shape: list[str | int] = ["batch", 3]
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    return model([node], [value("x", shape)], [value("y", shape)], two=np.float32(2))


def endless() -> bytes:
    """A loop of ``count`` matrix products; with a large count it ends by cancelling alone."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", "matrix"], ["product"]),
            helper.make_node("Tanh", ["product"], ["bounded"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [value("round", [], INT64), value("go", [], BOOL), value("carried", [64, 64])],
        [value("go_on", [], BOOL), value("bounded", [64, 64])],
    )
    node = helper.make_node("Loop", ["count", "", "x"], ["y"], body=body)
    matrix = np.random.RandomState(0).standard_normal((64, 64)).astype(np.float32)
    inputs = [value("x", [64, 64]), value("count", [], INT64)]
    return model([node], inputs, [value("y", [64, 64])], matrix=matrix)


def text2image(slow: bool = False) -> dict[str, bytes]:
    """Return the graphs of :data:`tests.tiny.COMPONENTS`; the denoiser may be made to take very long."""
    draw = np.random.RandomState(1).standard_normal
    vocab, _ = tiny.vocabulary()
    latent: list[str | int] = list(tiny.LATENT)
    hidden: list[str | int] = ["batch", tiny.LENGTH, 8]
    text = model(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        [value("input_ids", ["batch", tiny.LENGTH], INT64)],
        [value("last_hidden_state", hidden)],
        table=draw((len(vocab), 8)).astype(np.float32),
    )
    # The mean over text and the timestep shift the sample, so that prompt and step both matter.
    nodes = [
        helper.make_node("ReduceMean", ["encoder_hidden_states"], ["mean"], axes=[1, 2], keepdims=1),
        helper.make_node("Unsqueeze", ["mean", "last"], ["shift"]),
        helper.make_node("Mul", ["timestep", "small"], ["time"]),
        helper.make_node("Add", ["sample", "shift"], ["shifted"]),
        helper.make_node("Add", ["shifted", "time"], ["out_sample"]),
    ]
    weights: dict[str, Any] = {"last": np.int64([3]), "small": np.float32(1e-3)}
    if slow:
        nodes = [*_delay(), *nodes]
        nodes[-1] = helper.make_node("Add", ["shifted_more", "time"], ["out_sample"])
        nodes.insert(-1, helper.make_node("Add", ["shifted", "nothing"], ["shifted_more"]))
        weights |= {"large": np.int64([1024, 1024]), "zero": np.float32(0)}
    denoiser = model(
        nodes,
        [value("sample", latent), value("timestep", []), value("encoder_hidden_states", hidden)],
        [value("out_sample", latent)],
        **weights,
    )
    decoder = model(
        [helper.make_node("ConvTranspose", ["latent_sample", "kernel"], ["sample"], strides=[8, 8])],
        [value("latent_sample", latent)],
        [value("sample", ["batch", 3, "height", "width"])],
        kernel=(draw((4, 3, 8, 8)) / 20).astype(np.float32),
    )
    return {"text_encoder": text, "denoiser": denoiser, "decoder": decoder}


def _delay(products: int = 2000) -> list[Any]:
    """Nodes that multiply large matrices for a minute and more, and give ``nothing`` = 0. No loop: a bundle's
    graph may not have one."""
    nodes = [
        helper.make_node("ReduceMean", ["sample"], ["average"], keepdims=0),
        helper.make_node("Expand", ["average", "large"], ["late_0"]),
    ]
    for i in range(products):
        nodes.append(helper.make_node("MatMul", [f"late_{i}", f"late_{i}"], [f"product_{i}"]))
        nodes.append(helper.make_node("Tanh", [f"product_{i}"], [f"late_{i + 1}"]))
    last = helper.make_node("ReduceMean", [f"late_{products}"], ["late"], keepdims=0)
    return [*nodes, last, helper.make_node("Mul", ["late", "zero"], ["nothing"])]
