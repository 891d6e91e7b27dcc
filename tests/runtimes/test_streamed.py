"""A graph run a stretch at a time gives what it gives at once, and holds a part of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff import runtime
from edgediff.bundle import Bundle, GraphSpec
from edgediff.errors import BundleError, CancelledError, InputError
from edgediff.pipeline import EMBEDDED
from edgediff.runtime import Tensor

pytest.importorskip("onnx")


def feeds(spec: GraphSpec) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    found: dict[str, Tensor] = {}
    for tensor in spec.inputs:
        named = {"batch_size": 2, "sequence_length": 7}
        shape = [d if isinstance(d, int) else named.get(d, 8) for d in tensor.dims]
        drawn = rng.standard_normal(shape).astype(np.float32)
        found[tensor.name] = drawn if tensor.dtype == "float32" else np.ones(shape, np.int64)
    return found


def load(role: str, name: str, **options: Any) -> tuple[Any, GraphSpec]:
    bundle = Bundle.open(EMBEDDED)
    spec = bundle.graph(role)
    return runtime.find(name).load(spec, bundle.path / spec.file, "cpu", options, {}), spec


@pytest.mark.parametrize("role", ["text_encoder", "denoiser", "decoder", "encoder"])
@pytest.mark.parametrize("budget", [1 << 14, 1 << 18, 1 << 30])
def test_equal_to_a_whole_pass(role: str, budget: int) -> None:
    graph, spec = load(role, "streamed", budget=budget)
    whole, _ = load(role, "onnxruntime")
    given = feeds(spec)
    wanted = whole(given)
    for name, value in graph(given).items():
        assert np.abs(value - wanted[name]).max() < 1e-4 * np.abs(wanted[name]).max()
    assert [tensor.name for tensor in graph.info.outputs] == list(wanted)


def test_every_value_is_seen_in_order() -> None:
    seen: list[str] = []
    graph, spec = load("denoiser", "streamed", observe=lambda name, value: seen.append(name), budget=1 << 18)
    outputs = graph(feeds(spec))
    assert len(seen) == len(set(seen)) > 300
    assert seen[-1] == next(iter(outputs))


def test_cancelled_between_stretches() -> None:
    graph: Any = None

    def stop(name: str, value: Tensor) -> None:
        graph.cancel()

    graph, spec = load("denoiser", "streamed", observe=stop, budget=1 << 18)
    with pytest.raises(CancelledError):
        graph(feeds(spec))


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="runs on the cpu alone"):
        runtime.find("streamed").load(
            GraphSpec("onnxruntime", "portable", "a", "fp32"), tmp_path, "cuda", {}, {}
        )
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    spec = GraphSpec("onnxruntime", "portable", "a.onnx", "fp32")
    with pytest.raises(BundleError):
        runtime.find("streamed").load(spec, tmp_path / "a.onnx", "cpu", {}, {})
    graph, spec = load("denoiser", "streamed")
    wrong = {**feeds(spec), "sample": np.zeros((1, 99, 8, 8), np.float32)}
    with pytest.raises(BundleError, match="the run failed"):
        graph(wrong)
