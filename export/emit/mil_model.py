"""From a program to a Core ML model, through coremltools, which is asked for nothing but that."""

from __future__ import annotations

import contextlib
import importlib
import logging
import platform
import sys
from collections.abc import Iterator
from typing import Any

from edgediff.errors import UnsupportedError
from edgediff.export.emit.mil_form import MilForm


def coremltools() -> Any:
    """The package coremltools, imported without its remarks on what else is installed.

    Raises:
        UnsupportedError: it is not installed.
    """
    # Without this it reports that it cannot predict here, and which versions of PyTorch it has not seen.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    try:
        return importlib.import_module("coremltools")
    except ImportError as error:
        raise UnsupportedError(
            f"Core ML packages are made with coremltools, which cannot be imported ({error}). {_remedy()}"
        ) from error


def _remedy() -> str:
    machine = platform.machine().lower()
    if sys.version_info >= (3, 14):
        return "It has no release for Python 3.14 yet: pip install 'edgediff[coreml]' under Python 3.13."
    if sys.platform == "win32":
        return "It has no release for Windows: export on macOS or on Linux x86-64."
    if sys.platform != "darwin" and machine not in ("x86_64", "amd64"):
        return f"It has no release for {sys.platform} on {machine}: export on macOS or on Linux x86-64."
    return "Install it: pip install 'edgediff[coreml]'."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While this lasts, coremltools shows no progress bars, and writes no program out for a log that nobody
    reads: that took an eighth of the time of a conversion."""
    bar = importlib.import_module("tqdm").std.tqdm
    program = importlib.import_module("coremltools.converters.mil.mil").Program
    made, written = bar.__init__, program.__str__

    def silent(self: Any, *given: Any, **options: Any) -> None:
        made(self, *given, **{**options, "disable": True})

    bar.__init__, program.__str__ = silent, object.__repr__
    try:
        yield
    finally:
        bar.__init__, program.__str__ = made, written


def to_model(program: Any, form: MilForm) -> Any:
    """A program as a ``coremltools.models.MLModel``, which is not loaded; ``save`` writes its package.

    No pass goes over the program: it was written in the form that it shall have, with the types that it
    shall compute in, and passes that look for constants to fold, share or fuse read every weight.
    """
    ct = coremltools()
    with quiet():
        return ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, form.target),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
