"""A first look at a bundle: every graph is well-formed, loads, and gives finite numbers of the right form."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgediff.errors import CheckFailed
from edgediff.export.emit.onnx import Tensor
from edgediff.export.emit.sizes import Extents
from edgediff.export.families.parts import Part


def check_graph(path: Path) -> None:
    """The structure, by the ONNX checker; reads no weights."""
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # the checker's errors share no base but this
        raise CheckFailed(f"{path.name}: not a valid ONNX model ({str(error)[:300]}).") from error


def check_run(path: Path, part: Part, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> bool:
    """One small pass, unoptimised so that memory stays low; False where ONNX Runtime is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        results = session.run([t.name for t in outputs], {t.name: _trial(t, part.trial) for t in inputs})
    except Exception as error:  # the runtime's errors share no base but this
        raise CheckFailed(f"{part.folder}: ONNX Runtime refuses the graph ({str(error)[:300]}).") from error
    for tensor, result in zip(outputs, results, strict=True):
        if result.ndim != len(tensor.dims) or any(
            isinstance(want, int) and want != got for want, got in zip(tensor.dims, result.shape, strict=True)
        ):
            raise CheckFailed(
                f"{part.folder}: {tensor.name} has the shape {result.shape}, expected {tensor.dims}."
            )
        if not np.isfinite(result).all():
            raise CheckFailed(f"{part.folder}: {tensor.name} holds NaN or Inf in a first pass.")
    return True


def _trial(tensor: Tensor, trial: Mapping[str, Extents]) -> np.ndarray[Any, Any]:
    """Small inputs: ramps between -1 and 1, ids 0 and 1."""
    extents = iter(trial.get(tensor.name, ()))
    shape = [
        dim if isinstance(dim, int) else 1 if dim == "batch_size" else next(extents) for dim in tensor.dims
    ]
    count = int(np.prod(shape))
    if tensor.dtype == "int64":
        return (np.arange(count) % 2).reshape(shape)
    return np.linspace(-1.0, 1.0, count, dtype=np.float32).reshape(shape)
