"""The null runtime: zeros of the right shape, and complaints where a real runtime would complain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff import runtime
from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import BundleError

SPEC = GraphSpec(
    "onnxruntime", "portable", "a.onnx", "fp32",
    (TensorSpec("x", "float32", ("batch", 4, "latent_height")), TensorSpec("t", "int64", ("batch",))),
    (TensorSpec("y", "float16", ("batch", "height", 3)),),
)  # fmt: skip


def load(spec: GraphSpec = SPEC, **options: Any) -> Any:
    """Return a graph of the null runtime."""
    return runtime.find("null").load(spec, Path("nowhere"), "cpu", options, {})


def test_shapes_follow_from_the_names() -> None:
    inputs = {"x": np.ones((2, 4, 5), np.float32), "t": np.ones(2, np.int64)}
    y = load()(inputs)["y"]
    assert (y.dtype, y.shape) == (np.float16, (2, 40, 3))
    assert not y.any()
    assert load(scale=2)(inputs)["y"].shape == (2, 10, 3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x": None}, "input x: .* found nothing"),
        ({"x": np.ones((2, 4, 5))}, "float64"),
        ({"x": np.ones((2, 4), np.float32)}, "input x"),
        ({"x": np.ones((2, 3, 5), np.float32)}, "input x"),
        ({"t": np.ones(3, np.int64)}, "batch is 2 elsewhere and 3 here"),
    ],
)
def test_wrong_inputs(changes: dict[str, Any], says: str) -> None:
    inputs = {"x": np.ones((2, 4, 5), np.float32), "t": np.ones(2, np.int64), **changes}
    with pytest.raises(BundleError, match=says):
        load()({name: value for name, value in inputs.items() if value is not None})


def test_it_needs_a_manifest() -> None:
    with pytest.raises(BundleError, match="manifest"):
        load(GraphSpec("onnxruntime", "portable", "a.onnx", "fp32"))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (TensorSpec("t", "int64", ()), np.asarray(7, np.int64)),
        (TensorSpec("t", "float32", (1,)), np.asarray([7], np.float32)),
        (TensorSpec("t", "float16", ("batch",)), np.asarray([7, 7, 7], np.float16)),
        (TensorSpec("t", "float32", ("unet_batch_size",)), np.asarray([7, 7, 7], np.float32)),
        (TensorSpec("t", "int32", ("steps",)), np.asarray([7], np.int32)),
    ],
)
def test_timesteps_fit_the_graph(spec: TensorSpec, expected: Any) -> None:
    got = runtime.fitted(7.0, spec, 3)
    assert got.dtype == expected.dtype
    assert np.array_equal(got, expected)


def test_what_ships_is_found() -> None:
    assert {"null", "onnxruntime", "recorded"} <= set(runtime.names())
    assert all(not name.startswith("_") for name in runtime.names())
