"""Recording a graph's answers and playing them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff import runtime
from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import BundleError, CheckFailed
from edgediff.runtime import GraphInfo, Tensor
from edgediff.runtimes.recorded import SUFFIX, Recorder

TENSOR = TensorSpec("x", "float32", ("batch", 3))
SPEC = GraphSpec("onnxruntime", "portable", "a.onnx", "fp32", (TENSOR,), (TensorSpec("y", "float32", ()),))


class Doubling:
    """A graph that doubles."""

    closed = cancelled = False
    info = GraphInfo("test", "cpu", "test", "fp32", SPEC.inputs, SPEC.outputs)

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        return {"y": 2 * inputs["x"]}

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        self.closed = True


def question(seed: int) -> dict[str, Tensor]:
    """Return the inputs of one call."""
    return {"x": np.random.RandomState(seed).standard_normal((2, 3)).astype(np.float32)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The graph file beside which two calls are recorded."""
    recorder = Recorder(Doubling())
    for seed in (0, 1):
        asked = question(seed)
        answer = recorder(asked)
        asked["x"][:] = answer["y"][:] = 99  # what is recorded is a copy
    recorder.save(tmp_path / "a.onnx")
    return tmp_path / "a.onnx"


def load(file: Path, **options: Any) -> Any:
    return runtime.find("recorded").load(SPEC, file, "cpu", options, {})


def test_it_plays_back(file: Path) -> None:
    assert [p.name for p in file.parent.iterdir()] == ["a.onnx" + SUFFIX]
    graph = load(file)
    for seed in (0, 1):
        assert np.array_equal(graph(question(seed))["y"], 2 * question(seed)["x"])
    with pytest.raises(CheckFailed, match="2 calls were recorded"):
        graph(question(2))


def test_another_question_is_noticed(file: Path) -> None:
    with pytest.raises(CheckFailed, match="call 0: the input x differs"):
        load(file)(question(1))
    for wrong in ({}, {"x": question(0)["x"][:1]}, {"x": np.full((2, 3), np.nan, np.float32)}):
        with pytest.raises(CheckFailed, match="input x"):
            load(file)(wrong)


def test_the_tolerance(file: Path) -> None:
    near = {"x": question(0)["x"] + np.float32(1e-3)}
    with pytest.raises(CheckFailed):
        load(file)(near)
    assert load(file, tolerance=1e-2)(near)
    with pytest.raises(CheckFailed):
        load(file, tolerance=0)({"x": question(0)["x"] + np.float32(1e-5)})


def test_the_recorder_is_transparent() -> None:
    inner = Doubling()
    recorder = Recorder(inner)
    assert recorder.info is inner.info
    recorder.cancel()
    recorder.close()
    assert inner.cancelled
    assert inner.closed


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04"])
def test_a_recording_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / ("a.onnx" + SUFFIX)).write_bytes(content)
    with pytest.raises(BundleError, match="no recording"):
        load(tmp_path / "a.onnx")


def test_a_recording_with_objects_is_not_unpickled(tmp_path: Path) -> None:
    with (tmp_path / ("a.onnx" + SUFFIX)).open("wb") as stream:
        np.savez(stream, names=np.asarray([{"an": "object"}], dtype=object))
    with pytest.raises(BundleError, match="no recording"):
        load(tmp_path / "a.onnx")


def test_a_whole_picture(onnx_bundle: Path, tmp_path: Path) -> None:
    """What ONNX Runtime drew once is drawn again without it."""
    import shutil

    import edgediff

    folder = Path(shutil.copytree(onnx_bundle, tmp_path / "bundle"))
    with edgediff.load(folder) as pipe:
        for role in ("text_encoder", "denoiser", "decoder"):
            pipe._parts._graphs[role] = Recorder(pipe._parts.graph(role))
        drawn = np.asarray(pipe("a red circle", seed=3).images[0])
        for role, graph in pipe._parts._graphs.items():
            assert isinstance(graph, Recorder)
            graph.save(folder / pipe.bundle.graph(role).file)
    with edgediff.load(folder, runtime="recorded") as pipe:
        assert np.array_equal(np.asarray(pipe("a red circle", seed=3).images[0]), drawn)
    with edgediff.load(folder, runtime="recorded") as pipe, pytest.raises(CheckFailed):
        pipe("a red circle", seed=4)
