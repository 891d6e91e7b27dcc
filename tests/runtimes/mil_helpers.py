"""Small ML programs, written with coremltools' builder, converted from PyTorch by coremltools, and run."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

logging.getLogger("coremltools").setLevel(logging.CRITICAL)
ct = pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

from edgediff.bundle import GraphSpec  # noqa: E402
from edgediff.runtimes import mil  # noqa: E402

Arrays = dict[str, Any]
_TYPES = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """coremltools writes progress bars and warnings about the versions of other packages."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def write(
    path: Path,
    build: Callable[..., Any],
    inputs: Mapping[str, tuple[tuple[Any, ...], str]],
    target: str = "iOS17",
    passes: bool = False,
    **convert: Any,
) -> Path:
    """Save the program that ``build`` makes of its inputs (shape, dtype); without ``passes`` as it stands."""
    opset = getattr(ct.target, target)
    specs = [mb.TensorSpec(shape, _TYPES[dtype]) for shape, dtype in inputs.values()]
    names = list(inputs)

    # The builder reads the names of inputs from the function's own arguments.
    source = f"lambda {', '.join(names)}: build({', '.join(f'{n}={n}' for n in names)})"
    with quiet():
        program = mb.program(input_specs=specs, opset_version=opset)(eval(source, {"build": build}))
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=opset,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.DEFAULT if passes else ct.PassPipeline.EMPTY,
            skip_model_load=True,
            **convert,
        )
        model.save(str(path))
    return path


def load(path: Path, *stages: Path, options: Mapping[str, Any] | None = None, **constants: Any) -> Any:
    """A package's graph."""
    names = tuple(str(stage.relative_to(path.parent)) for stage in stages)
    spec = GraphSpec("coreml", "original", path.name, "fp32", stages=names)
    return mil.runtime().load(spec, path, "auto", options or {}, constants)


def ran(path: Path, feeds: Mapping[str, Any]) -> Arrays:
    """A package's outputs."""
    graph = load(path)
    try:
        found: Arrays = graph(feeds)
        return found
    finally:
        graph.close()


def relative(found: Any, due: Any) -> float:
    """The largest difference, by the largest value that is due."""
    found, due = np.asarray(found, np.float64), np.asarray(due, np.float64)
    assert found.shape == due.shape
    return float(np.abs(found - due).max() / max(np.abs(due).max(), 1e-30))


def decibels(found: Any, due: Any) -> float:
    """The ratio of signal to noise."""
    found, due = np.asarray(found, np.float64), np.asarray(due, np.float64)
    assert found.shape == due.shape
    noise = np.square(found - due).sum()
    return float(10 * np.log10(np.square(due).sum() / max(noise, 1e-300)))
