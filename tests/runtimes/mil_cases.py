"""Operations against their formulas: a case is inputs, a program, and what NumPy makes of the inputs in
float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb
from mil_helpers import load, relative, write

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)


def normal(*shape: int) -> Any:
    """Numbers of a normal distribution."""
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Any:
    """Numbers from 0.1 to 1.1."""
    return (RNG.random(shape) + 0.1).astype(np.float32)


def softmax(x: Any, axis: int) -> Any:
    """The definition."""
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def np_type(x: Any) -> Any:
    """The NumPy type of a value of a program, for its parameters."""
    return np.float16 if x.dtype.__name__ == "fp16" else np.float32


class Cases(dict[str, tuple[dict[str, Any], Callable[..., Any], Callable[..., Any]]]):
    """Cases by name; one whose name holds iOS18 is written for that system."""

    def __call__(self, name: str, build: Any, truth: Any, **inputs: Any) -> None:
        """Enter a case."""
        assert name not in self
        self[name] = (inputs, build, truth)

    def check(self, name: str, folder: Path) -> None:
        """Run a case in single and in half precision."""
        arrays, build, truth = self[name]
        half = {
            key: value.astype(np.float16) if value.dtype == np.float32 else value
            for key, value in arrays.items()
        }

        rounded = [key for key, value in half.items() if value.dtype == np.float16]

        def both(**given: Any) -> Any:
            narrow = {
                key: mb.cast(x=value, dtype="fp16") if value.dtype.__name__ == "fp32" else value
                for key, value in given.items()
            }
            made = [mb.identity(x=build(**given), name="full"), mb.identity(x=build(**narrow), name="half")]
            for key in rounded:
                made.append(mb.cast(x=narrow[key], dtype="fp32", name=f"after_{key}"))
            return tuple(made)

        target = "iOS18" if "iOS18" in name else "iOS17"
        specs = {key: (value.shape, str(value.dtype)) for key, value in arrays.items()}
        graph = load(write(folder / "a.mlpackage", both, specs, target))
        found, again = graph(arrays), graph(arrays)
        for key, value in found.items():  # nothing wrote on a constant or on an input
            np.testing.assert_array_equal(again[key], value)
        for key in rounded:
            np.testing.assert_array_equal(found[f"after_{key}"], half[key].astype(np.float32))
        assert relative(found["full"], truth(*map(_wide, arrays.values()))) < 2e-6
        # The parameters are rounded too, and some operations come in pairs.
        assert relative(found["half"], truth(*map(_wide, half.values()))) < 4e-3


def _wide(value: Any) -> Any:
    return value.astype(np.float64 if value.dtype.kind == "f" else np.int64)
