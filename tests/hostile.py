"""Graphs with one fault each: made by hand, checked by nothing, scanned."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgediff import onnx_scan
from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import BundleError

SPEC = GraphSpec("onnxruntime", "portable", "model.onnx", "unknown")
TENSORS = (TensorSpec("x", "float32", ("batch", 4)),)
OUT = (TensorSpec("y", "float32", ("batch", 4)),)
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
WHOLE = np.arange(16, dtype=np.float32).reshape(4, 4)


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, outputs, **attributes)


def graph(*nodes: Any, inputs: Any = (X,), outputs: Any = (Y,), **weights: Any) -> Any:
    """Return a model of these nodes; nothing checks it. Arrays become initializers, tensors stay."""
    made = [w if isinstance(w, TensorProto) else numpy_helper.from_array(w, n) for n, w in weights.items()]
    built = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), made)
    return helper.make_model(built, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def product(**weights: Any) -> Any:
    """Return ``y = x w``, the model that most faults are put into."""
    return graph(node("MatMul", ["x", "w"], ["y"]), **{"w": WHOLE, **weights})


def outside(location: str = "weights", dims: Any = (4, 4), name: str = "w", **entries: Any) -> TensorProto:
    """Return a float32 tensor that lies beside the graph."""
    tensor = TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL
    )
    for key, text in {"location": location, "offset": "0", "length": "64", **entries}.items():
        if text is not None:
            tensor.external_data.add(key=key, value=text)
    return tensor


def scan(folder: Path, model: Any, spec: GraphSpec = SPEC, weights: int = 64) -> onnx_scan.Report:
    """Write a model and its weights and scan it."""
    (folder / "model.onnx").unlink(missing_ok=True)  # far quicker than to write over it
    (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    if weights and not (folder / "weights").exists():
        (folder / "weights").write_bytes(bytes(weights))
    return onnx_scan.scan(folder / "model.onnx", spec)


def refused(folder: Path, model: Any, says: str, spec: GraphSpec = SPEC, weights: int = 64) -> str:
    """Assert that it is refused in one plain line, at once."""
    began = time.monotonic()
    with pytest.raises(BundleError, match=says) as caught:
        scan(folder, model, spec, weights)
    assert time.monotonic() - began < 10
    message = str(caught.value)
    assert message.isprintable()
    assert message.isascii()
    assert len(message.removeprefix(str(folder))) < 500
    assert "model.onnx" in message or "weights" in message
    return message
