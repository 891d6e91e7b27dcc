"""A graph in stretches gives the very numbers of the whole, however many of them stay loaded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgediff import footprint
from edgediff import runtime as runtimes
from edgediff.bundle import Bundle, GraphSpec
from edgediff.errors import BundleError, CancelledError, InputError, ResourceError
from edgediff.memory.cut import Cut
from edgediff.pipeline import EMBEDDED
from edgediff.runtime import Graph
from tests import graphs


def _loaded(name: str, role: str, **options: Any) -> tuple[Bundle, Any]:
    bundle = Bundle.open(EMBEDDED)
    spec = bundle.graph(role, "onnxruntime")
    found = runtimes.find(name).load(spec, bundle.path / spec.file, "cpu", {"threads": 1, **options}, {})
    return bundle, found


def _passed(bundle: Bundle, role: str, graph: Graph) -> dict[str, np.ndarray[Any, Any]]:
    return graph(footprint.inputs_of(bundle, role, graph.info.inputs))


@pytest.mark.parametrize("role", ["text_encoder", "denoiser", "decoder"])
def test_stretches_give_the_numbers_of_the_whole(role: str) -> None:
    bundle, whole = _loaded("onnxruntime", role)
    expected = _passed(bundle, role, whole)
    for options in ({}, {"resident": 0}, {"resident": 2}, {"resident": 1, "ahead": True}):
        _, graph = _loaded("sequence", role, stretch=250_000, **options)
        assert len(graph.stretches) > 2
        for _ in range(2):
            found = _passed(bundle, role, graph)
            assert list(found) == list(expected)
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)
        graph.close()


def test_one_stretch_is_the_whole() -> None:
    bundle, graph = _loaded("sequence", "decoder")
    assert len(graph.stretches) == graph.resident == 1
    assert graph.info.nodes == _loaded("onnxruntime", "decoder")[1].info.nodes
    assert _passed(bundle, "decoder", graph)["sample"].shape == (1, 3, 64, 64)


def test_a_closed_graph_says_so() -> None:
    bundle, graph = _loaded("sequence", "decoder", stretch=250_000, resident=1)
    graph.close()
    with pytest.raises(ResourceError, match="was closed"):
        _passed(bundle, "decoder", graph)


def test_what_is_missing_or_wrong_is_named() -> None:
    bundle, graph = _loaded("sequence", "denoiser", stretch=250_000, resident=1)
    given = footprint.inputs_of(bundle, "denoiser", graph.info.inputs)
    name = graph.info.inputs[0].name
    with pytest.raises(InputError, match=name):
        graph({k: v for k, v in given.items() if k != name})
    with pytest.raises(BundleError, match="the run failed"):
        graph({**given, name: given[name][:, :1]})
    with pytest.raises(InputError, match="cpu alone"):
        runtimes.find("sequence").load(bundle.graph("decoder", "onnxruntime"), bundle.path, "cuda", {}, {})


def test_a_cancelled_pass_stops_and_the_next_one_runs(tmp_path: Path) -> None:
    file = tmp_path / "slow.onnx"
    file.write_bytes(graphs.text2image(slow=True)["denoiser"])
    spec = GraphSpec("onnxruntime", "portable", file.name, "fp32")
    graph = runtimes.find("sequence").load(spec, file, "cpu", {"scan": False}, {})
    ports = graph.info.inputs
    inputs = {s.name: np.ones([d if isinstance(d, int) else 1 for d in s.dims], s.dtype) for s in ports}
    timer = threading.Timer(0.3, graph.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        graph(inputs)
    timer.join()
    bundle, short = _loaded("sequence", "decoder", stretch=250_000, resident=0)
    short.cancel()  # nothing runs
    assert _passed(bundle, "decoder", short)
    graph.close()


def test_an_output_that_is_made_early_reaches_the_caller(tmp_path: Path) -> None:
    weights = {f"w{i}": np.full((1, 2), i + 1.0, np.float32) for i in range(4)}
    nodes = [helper.make_node("Add", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(4)]
    port = ["rows", 2]
    file = tmp_path / "early.onnx"
    outputs = [graphs.value("x4", port), graphs.value("x1", port), graphs.value("x2", port)]
    file.write_bytes(graphs.model(nodes, [graphs.value("x0", port)], outputs, **weights))
    spec = GraphSpec("onnxruntime", "portable", file.name, "fp32")
    for resident in (None, 0, 1):
        options = {"stretch": 8, "resident": resident}
        graph = runtimes.find("sequence").load(spec, file, "cpu", options, {})
        assert len(graph.stretches) == 4
        found = graph({"x0": np.zeros((3, 2), np.float32)})
        assert {name: float(value[2, 1]) for name, value in found.items()} == {"x4": 10, "x1": 1, "x2": 3}


def test_a_damaged_graph_is_refused() -> None:
    for data in (b"", b"\x3a\x05abc", graphs.text2image()["decoder"].replace(b"kernel", b"ker\xff\xffl")):
        with pytest.raises(BundleError, match="run in stretches"):
            Cut(data, 8)
