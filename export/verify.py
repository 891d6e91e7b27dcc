"""A first look at a bundle: every graph is well-formed, loads, and gives finite numbers of the right form."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgediff import golden
from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import BundleError, CheckFailed
from edgediff.export.emit.onnx import Tensor
from edgediff.export.emit.sizes import Extents
from edgediff.export.families.parts import Part
from edgediff.runtime import find

Array = np.ndarray[Any, Any]


def check_graph(path: Path) -> None:
    """The structure, by the ONNX checker; reads no weights."""
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # the checker's errors share no base but this
        raise CheckFailed(f"{path.name}: not a valid ONNX model ({str(error)[:300]}).") from error


Passed = tuple[dict[str, Array], dict[str, Array]]


def check_run(
    path: Path, part: Part, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> Passed | None:
    """Load the whole graph, then one small pass that holds a part of the weights.

    The result: the inputs, filled as golden ones are, and the outputs; None without ONNX Runtime.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    weights = ("model.onnx_data",)
    spec = GraphSpec("streamed", "portable", path.name, "any", _specs(inputs), _specs(outputs), weights)
    given = golden.inputs({t.name: (t.dtype, _shape(t, part.trial)) for t in inputs})
    try:
        results = find("streamed").load(spec, path, "cpu", {}, {})(given)
    except BundleError as error:
        raise CheckFailed(f"{part.folder}: {error}") from error
    for tensor in outputs:
        result = results[tensor.name]
        if result.ndim != len(tensor.dims) or any(
            isinstance(want, int) and want != got for want, got in zip(tensor.dims, result.shape, strict=True)
        ):
            raise CheckFailed(
                f"{part.folder}: {tensor.name} has the shape {result.shape}, expected {tensor.dims}."
            )
        if not np.isfinite(result).all():
            raise CheckFailed(f"{part.folder}: {tensor.name} holds NaN or Inf in a first pass.")
    return given, results


def _specs(tensors: tuple[Tensor, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(t.name, t.dtype, t.dims) for t in tensors)


def _shape(tensor: Tensor, trial: Mapping[str, Extents]) -> tuple[int, ...]:
    extents = iter(trial.get(tensor.name, ()))
    return tuple(d if isinstance(d, int) else 1 if d == "batch_size" else next(extents) for d in tensor.dims)
