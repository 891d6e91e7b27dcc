"""A runtime that computes nothing: zeros of the right shape. For tests of tasks, and to time our own code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import BundleError
from edgediff.runtime import GraphInfo, Tensor


def runtime() -> NullRuntime:
    """Return this runtime."""
    return NullRuntime()


class NullRuntime:
    """Option ``scale``: how many result units make a latent unit, for dims that no input carries (default
    8)."""

    reads = None  # whatever a graph is of

    def devices(self) -> Sequence[str]:
        return ("cpu",)

    def load(
        self,
        spec: GraphSpec,
        file: Path,
        device: str,
        options: Mapping[str, Any],
        constants: Mapping[str, Tensor],
    ) -> NullGraph:
        """Load nothing; the manifest's dims say what comes out."""
        del file, constants
        if not spec.outputs:
            raise BundleError(f"{spec.file}: the null runtime needs a manifest that names the outputs.")
        return NullGraph(spec, device, int(options.get("scale") or 8))


class NullGraph:
    """Zeros. A dim of an output is fixed, or bound by an input of the call, or ``x`` from ``latent_x``."""

    def __init__(self, spec: GraphSpec, device: str, scale: int) -> None:
        self._info = GraphInfo("null", device, "null", spec.precision, spec.inputs, spec.outputs)
        self._scale = scale

    @property
    def info(self) -> GraphInfo:
        return self._info

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return zeros; checks names, ranks, dtypes and fixed dims of the inputs as a real runtime does."""
        bound: dict[str, int] = {}
        for spec in self._info.inputs:
            self._bind(spec, inputs, bound)
        return {o.name: np.zeros([self._size(d, bound) for d in o.dims], o.dtype) for o in self._info.outputs}

    def _bind(self, spec: TensorSpec, inputs: Mapping[str, Tensor], bound: dict[str, int]) -> None:
        value = inputs.get(spec.name)
        if value is None or value.dtype != spec.dtype or value.ndim != len(spec.dims):
            found = "nothing" if value is None else f"{value.dtype} {value.shape}"
            raise BundleError(f"input {spec.name}: expected {spec.dtype} {list(spec.dims)}, found {found}.")
        for dim, size in zip(spec.dims, value.shape, strict=True):
            if isinstance(dim, int) and dim != size:
                raise BundleError(
                    f"input {spec.name}: expected {list(spec.dims)}, found {list(value.shape)}."
                )
            if isinstance(dim, str) and bound.setdefault(dim, size) != size:
                raise BundleError(f"input {spec.name}: {dim} is {bound[dim]} elsewhere and {size} here.")

    def _size(self, dim: str | int, bound: Mapping[str, int]) -> int:
        if isinstance(dim, int):
            return dim
        if dim in bound:
            return bound[dim]
        latent = bound.get(f"latent_{dim}")
        if latent is not None:
            return latent * self._scale
        larger = bound.get(re.sub("^latent_", "", dim))
        return 1 if larger is None else larger // self._scale

    def cancel(self) -> None:
        """Nothing runs long enough."""

    def close(self) -> None:
        """Nothing is held."""
