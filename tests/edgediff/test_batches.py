"""Graphs of a fixed batch and size, on a fake that notes what it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from edgediff import batches
from edgediff.bundle import TensorSpec
from edgediff.errors import InputError
from edgediff.runtime import GraphInfo, Tensor


class Doubling:
    """y = 2 x + t for a fixed batch, or for any."""

    def __init__(self, batch: int | str) -> None:
        self.seen: list[int] = []
        inputs = (TensorSpec("x", "float32", (batch, 3, "n")), TensorSpec("t", "float32", (1,)))
        if isinstance(batch, int):
            inputs = (TensorSpec("x", "float32", (batch, 3, 4)), inputs[1])
        self.info = GraphInfo("test", "cpu", "test", "fp32", inputs, ())

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.seen.append(len(inputs["x"]))
        return {"y": 2 * inputs["x"] + inputs["t"]}

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def feeds(*shape: int) -> dict[str, Any]:
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    return {"x": x, "t": np.array([5], np.float32)}


@pytest.mark.parametrize(
    ("batch", "given", "seen"),
    [("batch_size", 3, [3]), (3, 3, [3]), (1, 3, [1, 1, 1]), (2, 4, [2, 2]), (1, 1, [1])],
)
def test_runs_add_up_to_the_batch(batch: int | str, given: int, seen: list[int]) -> None:
    graph, inputs = Doubling(batch), feeds(given, 3, 4)
    np.testing.assert_array_equal(batches.run(graph, inputs)["y"], 2 * inputs["x"] + 5)
    assert graph.seen == seen


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(InputError, match="a batch of 3 is no multiple of the 2"):
        batches.run(Doubling(2), feeds(3, 3, 4))


def test_another_size_than_the_fixed_one() -> None:
    graph = Doubling(1)
    with pytest.raises(InputError, match=r"x: this form of the graph takes the shape \(1, 3, 4\), not"):
        batches.run(graph, feeds(1, 3, 5))
    assert not graph.seen
