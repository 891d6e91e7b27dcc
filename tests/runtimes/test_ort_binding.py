"""Constants kept on a device, by ONNX Runtime's IO binding on its CPU device; the numbers of a plain run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff.bundle import GraphSpec
from edgediff.errors import BundleError
from edgediff.runtime import constant
from edgediff.runtimes import _ort_binding
from edgediff.runtimes import onnxruntime as module
from edgediff.runtimes._ort_binding import Binding
from edgediff.runtimes.onnxruntime import OnnxRuntime

onnx = pytest.importorskip("onnx")
SPEC = GraphSpec("onnxruntime", "portable", "g.onnx", "fp32")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """total = a * b + c, and a twice over."""
    ports = [onnx.helper.make_tensor_value_info(name, 1, ["rows", 2]) for name in ("a", "b", "c")]
    nodes = [
        onnx.helper.make_node("Mul", ["a", "b"], ["ab"]),
        onnx.helper.make_node("Add", ["ab", "c"], ["total"]),
        onnx.helper.make_node("Add", ["a", "a"], ["twice"]),
    ]
    made = [onnx.helper.make_tensor_value_info(name, 1, ["rows", 2]) for name in ("total", "twice")]
    opset = [onnx.helper.make_opsetid("", 18)]
    graph = onnx.helper.make_graph(nodes, "g", ports, made)
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=opset), tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


@pytest.fixture(params=["plain", "bound"])
def graph(request: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loaded as a plain session, and as on a device with memory of its own."""
    if request.param == "bound":
        monkeypatch.setattr(module, "APART", frozenset(("cpu",)))
    loaded = OnnxRuntime().load(SPEC, file, "cpu", {"threads": 1}, {"b": rows(3)})
    assert isinstance(loaded._binding, Binding) is (request.param == "bound")
    return loaded


def rows(value: float, count: int = 2) -> Any:
    return np.full((count, 2), value, np.float32)


def test_constants_are_left_out_of_calls(graph: Any) -> None:
    for a in (1.0, 2.0):
        found = graph({"a": rows(a), "c": rows(5)})
        assert np.array_equal(found["total"], rows(3 * a + 5))
        assert np.array_equal(found["twice"], rows(2 * a))
    assert np.array_equal(graph({"a": rows(2), "b": rows(7), "c": rows(1)})["total"], rows(15))
    assert np.array_equal(graph({"a": rows(2), "c": rows(1)})["total"], rows(7))


def test_read_only_inputs_are_copied_once(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    if graph._binding is not None:
        original = graph._binding._copied
        monkeypatch.setattr(graph._binding, "_copied", lambda x: (copies.append(x), original(x))[1])
    one, other = constant(rows(5)), constant(rows(6))
    for c, expected in ((one, 8), (one, 8), (one, 8), (other, 9), (other, 9)):
        assert np.array_equal(graph({"a": rows(1), "c": c})["total"], rows(expected))
    assert len(copies) == (0 if graph._binding is None else 2)


def test_what_may_be_written_is_read_in_each_run(graph: Any) -> None:
    c = rows(5)
    view = c[:]
    view.setflags(write=False)
    for expected in (8, 9):
        assert np.array_equal(graph({"a": rows(1), "c": view})["total"], rows(expected))
        assert np.array_equal(graph({"a": rows(1), "c": c})["total"], rows(expected))
        c += 1


def test_a_constant_is_a_copy_that_nobody_writes() -> None:
    x = rows(1)
    kept = constant(x)
    x += 1
    assert np.array_equal(kept, rows(1))
    with pytest.raises(ValueError, match="read-only"):
        kept += 1


def test_what_is_missing_is_an_error(graph: Any) -> None:
    with pytest.raises(BundleError, match="the run failed"):
        graph({"a": rows(1)})


def test_arrays_of_any_order_are_taken(graph: Any) -> None:
    columns = np.asfortranarray(np.arange(4, dtype=np.float32).reshape(2, 2))
    columns.setflags(write=False)
    assert np.array_equal(graph({"a": columns, "c": columns})["total"], 3 * columns + columns)


def test_nothing_is_called_after_closing(graph: Any) -> None:
    graph.close()
    with pytest.raises(Exception, match="was closed"):
        graph({"a": rows(1), "c": rows(1)})


def test_cuda_alone_has_memory_of_its_own() -> None:
    assert frozenset(("cuda",)) == _ort_binding.APART
