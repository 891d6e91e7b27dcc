"""ONNX Runtime on small graphs made by hand: devices, errors, cancelling."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff import runtime
from edgediff.bundle import GraphSpec
from edgediff.errors import BundleError, CancelledError, InputError, ResourceError, UnsupportedError

pytest.importorskip("onnx")
from tests import graphs, tiny

SPEC = GraphSpec("onnxruntime", "portable", "model.onnx", "fp32")
FOREVER = 10**12  # rounds of a loop
BOUND = 60  # seconds within which a cancelled call must be back; it takes well under one


def load(
    data: bytes,
    folder: Path,
    device: str = "cpu",
    constants: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Return the loaded graph."""
    (folder / "model.onnx").write_bytes(data)
    found = runtime.find("onnxruntime")
    return found.load(SPEC, folder / "model.onnx", device, {"threads": 1, **options}, constants or {})


X = np.asarray([[1, 2, 3]], np.float32)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_it_runs(tmp_path: Path, device: str) -> None:
    graph = load(graphs.doubling(), tmp_path, device)
    assert graph({"x": X})["y"].tolist() == [[2, 4, 6]]
    info = graph.info
    assert (info.runtime, info.device, info.provider) == ("onnxruntime", "cpu", "CPUExecutionProvider")
    assert [(t.name, t.dtype, t.dims) for t in info.inputs] == [("x", "float32", ("batch", 3))]
    assert [t.name for t in info.outputs] == ["y"]
    assert info.load_seconds > 0
    assert info.profile == "portable"


def test_nodes_per_provider(tmp_path: Path) -> None:
    nodes = load(graphs.doubling(), tmp_path).info.nodes
    assert nodes in ({"CPUExecutionProvider": 1}, {})  # empty where this build cannot tell


def test_constants_are_bound_once(tmp_path: Path) -> None:
    graph = load(graphs.doubling(), tmp_path, constants={"x": X})
    assert graph({})["y"].tolist() == [[2, 4, 6]]


def test_calls_from_other_threads(tmp_path: Path) -> None:
    graph, answers = load(graphs.doubling(), tmp_path), []
    other = threading.Thread(target=lambda: answers.append(graph({"x": X})["y"].tolist()))
    other.start()
    other.join()
    assert answers == [[[2, 4, 6]]]


@pytest.mark.parametrize("device", ["gpu", "CPU", "", "cuda:0", "tpu"])
def test_unknown_devices(tmp_path: Path, device: str) -> None:
    with pytest.raises(InputError, match="is unknown; choose one of auto, cpu, cuda"):
        load(graphs.doubling(), tmp_path, device)


@pytest.mark.parametrize(
    ("device", "repair"),
    [
        ("cuda", r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
        ("coreml", "macOS"),
        ("openvino", r"pip install 'edgediff\[openvino\]'"),
        ("webgpu", "pip install onnxruntime-ep-webgpu"),
    ],
)
def test_devices_that_are_not_here(tmp_path: Path, device: str, repair: str) -> None:
    if device in runtime.find("onnxruntime").devices():
        pytest.skip(f"{device} is here")
    with pytest.raises(UnsupportedError, match=repair) as caught:
        load(graphs.doubling(), tmp_path, device)
    assert str(caught.value).startswith(f"device {device}: ")


def test_a_silent_fall_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime names a provider that it then does not take: what a missing library looks like."""
    import warnings

    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    if "cuda" in _really_available():
        pytest.skip("cuda is here")
    with warnings.catch_warnings(), pytest.raises(UnsupportedError, match="device cuda"):
        warnings.simplefilter("ignore")
        load(graphs.doubling(), tmp_path, "cuda")


def _really_available() -> set[str]:
    import onnxruntime.capi._pybind_state as state

    return {"cuda"} if "CUDAExecutionProvider" in state.get_available_providers() else set()


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x0a", b"version https://git-lfs", b"\0" * 4096])
def test_files_that_are_no_graphs(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx: ") as caught:
        load(data, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx"):
        runtime.find("onnxruntime").load(SPEC, tmp_path / "model.onnx", "cpu", {}, {})


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": X, "z": X},
        {"y": X},
        {"x": X.astype(np.float64)},
        {"x": X[0]},
        {"x": X[:, :2]},
        {"x": [[1.0, 2.0, 3.0]]},
        {"x": None},
    ],
    ids=["none", "one-more", "other-name", "dtype", "rank", "size", "list", "nothing"],
)
def test_wrong_inputs(tmp_path: Path, inputs: Any) -> None:
    graph = load(graphs.doubling(), tmp_path)
    if isinstance(inputs.get("x"), list):
        assert graph(inputs)["y"].tolist() == [[2, 4, 6]]  # onnxruntime converts lists itself
        return
    with pytest.raises(BundleError, match=r"model\.onnx: the run failed"):
        graph(inputs)
    assert graph({"x": X})["y"].tolist() == [[2, 4, 6]]


def test_a_closed_graph(tmp_path: Path) -> None:
    graph = load(graphs.doubling(), tmp_path)
    graph({"x": X})
    graph.close()
    graph.close()
    with pytest.raises(ResourceError, match="closed"):
        graph({"x": X})


def test_memory_that_runs_out_is_said_so() -> None:
    from edgediff.runtimes.onnxruntime import _translated

    for error in (MemoryError(), RuntimeError("Failed to allocate memory for x"), RuntimeError("bad_alloc")):
        assert isinstance(_translated(error, "a.onnx"), ResourceError)
    assert isinstance(_translated(RuntimeError("two\nlines"), "a.onnx"), BundleError)
    assert "\n" not in str(_translated(RuntimeError("two\nlines"), "a.onnx"))


@pytest.mark.parametrize("on_main_thread", [True, False])
def test_cancel_from_another_thread(tmp_path: Path, on_main_thread: bool) -> None:
    graph = load(graphs.endless(), tmp_path, scan=False)
    inputs = {"x": np.eye(64, dtype=np.float32), "count": np.asarray(FOREVER)}
    raised: list[BaseException] = []

    def call() -> None:
        try:
            graph(inputs)
        except CancelledError as error:
            raised.append(error)

    began = time.monotonic()
    if on_main_thread:
        timer = threading.Timer(0.3, graph.cancel)
        timer.start()
        call()
        timer.join()
    else:
        other = threading.Thread(target=call, daemon=True)
        other.start()
        time.sleep(0.3)
        graph.cancel()
        other.join(BOUND)
        assert not other.is_alive()
    assert time.monotonic() - began < BOUND
    assert len(raised) == 1
    answer = graph({**inputs, "count": np.asarray(1)})["y"]  # and it can be used again
    assert answer.shape == (64, 64)


def test_cancel_while_nothing_runs(tmp_path: Path) -> None:
    graph = load(graphs.doubling(), tmp_path)
    graph.cancel()
    assert graph({"x": X})["y"].tolist() == [[2, 4, 6]]


def test_cancel_of_a_picture(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "slow", graphs.text2image(slow=True))
    with edgediff.load(tmp_path / "slow", threads=1) as pipe:
        timer = threading.Timer(1.0, pipe.cancel)
        timer.start()
        with pytest.raises(CancelledError):
            pipe("a", seed=0)
        timer.join()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for other processes on Windows")
def test_ctrl_c_ends_the_command(tmp_path: Path) -> None:
    """The session runs in native code; Ctrl-C must reach it, end it, and leave no file."""
    tiny.write_bundle(tmp_path / "slow", graphs.text2image(slow=True))
    command = [sys.executable, "-m", "edgediff", "run", "a", "-m", "slow", "-o", "a.png", "-t", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            time.sleep(4)  # by now it computes; should the machine be slow, it stops while loading
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=BOUND)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert errors.strip() == "edgediff: interrupted; nothing was written."
    assert [p.name for p in tmp_path.iterdir()] == ["slow"]
