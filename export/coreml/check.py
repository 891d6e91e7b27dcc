"""A first look at packages that were written: they open, the interpreter knows their operations, their
inputs and outputs are as the manifest says, and small ones give finite numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgediff import golden, runtime
from edgediff.bundle import TensorSpec, package_of
from edgediff.errors import BundleError, CheckFailed, UnsupportedError
from edgediff.export.coreml.receipt import Written
from edgediff.export.emit.flops import flops
from edgediff.mil_ports import features
from edgediff.mil_spec import Feature, read_spec
from edgediff.mlpackage import open_package

Say = Callable[[str], None]
RUN = 3e10
"""Floating-point operations of a network that is run once: a second or two of the interpreter."""


def check(folder: Path, written: Sequence[Written], say: Say) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Check every network; the golden entries by role of those that were run, and notes on the others.

    Raises:
        CheckFailed: a package is not what it should be, or gives numbers that are not finite.
    """
    entries, large = {}, []
    for each in written:
        say(f"checking {each.role}")
        try:
            _check_files(folder, each)
            loaded = runtime.find("mil").load(each.spec, folder / each.spec.file, "cpu", {}, {})
        except (BundleError, UnsupportedError) as error:
            raise CheckFailed(f"{each.role}: {error}") from error
        try:
            if flops(each.part.graph, each.signature.extents[0], each.signature.batch)["total"] > RUN:
                large.append(each.role)
            else:
                entries[each.role] = _run(loaded, each)
        finally:
            loaded.close()
    note = f"not run, being large for the interpreter: {', '.join(large)}"
    return entries, ((note,) if large else ())


def _check_files(folder: Path, written: Written) -> None:
    """The packages open, and between them have the inputs and outputs of the network."""
    given: dict[str, Feature] = {}
    made: dict[str, Feature] = {}
    for file in written.models:
        place = package_of(file)
        stage = read_spec(open_package(folder / str(place)).model)
        given |= {feature.name: feature for feature in stage.inputs if feature.name not in made}
        made |= {feature.name: feature for feature in stage.outputs}
    spec = written.spec
    read = features(spec.inputs, given, written.role)
    if set(read.values()) != given.keys():
        raise CheckFailed(f"{written.role}: its packages read {sorted(given)}, not {sorted(read)}.")
    named = {**read, **features(spec.outputs, made, written.role)}
    for tensor, known in (*((t, given) for t in spec.inputs), *((t, made) for t in spec.outputs)):
        found = known[named[tensor.name]]
        if found.dtype != tensor.dtype or not _fits(found, tensor):
            raise CheckFailed(f"{written.role}: {tensor.name} is {found}, not {tensor.dtype} {tensor.dims}.")


def _fits(feature: Feature, tensor: TensorSpec) -> bool:
    """Outputs may state no shape: it follows from the program."""
    if not feature.shape:
        return True
    return len(feature.shape) == len(tensor.dims) and all(
        isinstance(want, str) or want == have for want, have in zip(tensor.dims, feature.shape, strict=True)
    )


def _run(loaded: runtime.Graph, written: Written) -> dict[str, Any]:
    graph, signature = written.part.graph, written.signature
    shapes = {}
    for port in signature.inputs_of(graph):
        tensor = signature.tensor(port, signature.extents[0].get(port.name, ()))
        shapes[tensor.name] = (tensor.dtype, tuple(int(dim) for dim in tensor.dims))
    given = golden.inputs(shapes)
    results = loaded(given)
    for name, value in results.items():
        if not np.isfinite(value).all():
            raise CheckFailed(f"{written.role}: {name} holds NaN or Inf in a first pass.")
    return golden.entry(given, results)
