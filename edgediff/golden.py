"""Golden vectors of a bundle: what its graphs gave when it was exported, to compare with what they give here.

``golden.json`` has, for each role, the shapes of small inputs and some values of every output of its graph.
Forms that round otherwise than the portable one, since they compute in int8, have an entry of their own under
``role@profile``.
The inputs themselves are a rule, so that a file of a few kilobytes is enough: floats run from -1 to 1 in
equal steps over the tensor, last axis fastest; integers are 0, 1, 0, 1, ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgediff.bundle import Bundle, TensorSpec
from edgediff.errors import BundleError, CheckFailed
from edgediff.extents import fits
from edgediff.manifest import Fields, read_json
from edgediff.runtime import Tensor

FILE = "golden.json"
FORMAT = "edgediff-golden/1"
_PLACES = 32
_LIMIT = 1 << 22
_LARGEST = 1 << 24  # elements of an input


def inputs(shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Return inputs by name, of the given dtypes and shapes, filled by the rule."""
    made: dict[str, Tensor] = {}
    for name, (dtype, shape) in shapes.items():
        count = int(np.prod(shape, dtype=np.int64))
        if np.dtype(dtype).kind == "f":
            made[name] = np.linspace(-1.0, 1.0, count, dtype=np.float32).reshape(shape).astype(dtype)
        else:
            made[name] = (np.arange(count) % 2).reshape(shape).astype(dtype)
    return made


def entry(given: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what ``golden.json`` holds of one graph: its inputs' shapes, some values of its outputs."""
    return {
        "inputs": {
            name: {"dtype": value.dtype.name, "shape": list(value.shape)} for name, value in given.items()
        },
        "outputs": {name: _sampled(value) for name, value in outputs.items()},
    }


def _sampled(value: Tensor) -> dict[str, Any]:
    flat = value.astype(np.float64).ravel()
    values = [float(f"{number:.7g}") for number in flat[_places(flat.size)]]
    return {"shape": list(value.shape), "scale": float(f"{np.abs(flat).max():.7g}"), "values": values}


def _places(size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Places spread over a flat tensor, the first and the last among them."""
    return np.linspace(0, size - 1, min(size, _PLACES)).astype(np.int64)


def chosen(entries: Mapping[str, dict[str, Any]], role: str, profile: str) -> dict[str, Any] | None:
    """Return the entry for a role's graph in a form, if there is one."""
    return entries.get(f"{role}@{profile}", entries.get(role))


def feedable(
    entry: Mapping[str, Any], inputs: Sequence[TensorSpec], extents: Sequence[Mapping[str, int]] = ()
) -> bool:
    """Return whether a graph takes inputs of the golden shapes; one of fixed sizes may not."""
    for spec in inputs:
        if spec.name not in entry["inputs"]:
            return False
        _, shape = entry["inputs"][spec.name]
        if len(shape) != len(spec.dims):
            return False
        named = {dim: size for dim, size in zip(spec.dims, shape, strict=True) if isinstance(dim, str)}
        if any(isinstance(d, int) and d != n for d, n in zip(spec.dims, shape, strict=True)):
            return False
        if not fits(extents, named):
            return False
    return True


def psnr_db(wanted: Mapping[str, Any], found: Mapping[str, Tensor]) -> float:
    """Return the smallest ratio of an output's largest value to its error at the golden places, in decibel.

    It is infinite where all are equal, and minus infinite where an output is not finite or of another shape.
    """
    worst = math.inf
    for name, each in wanted["outputs"].items():
        value = found[name]
        if list(value.shape) != each["shape"] or not np.isfinite(value).all():
            return -math.inf
        error = value.astype(np.float64).ravel()[_places(value.size)] - each["values"]
        mean = float(np.square(error).mean())
        peak = float(each["scale"]) or 1.0
        worst = min(worst, math.inf if mean == 0 else 10 * math.log10(peak**2 / mean))
    return worst


def compare(wanted: Mapping[str, Any], found: Mapping[str, Tensor], tolerance: float, where: str) -> float:
    """Return the largest difference from the golden values, as a share of the output's largest value.

    Raises:
        CheckFailed: an output has another shape, is not finite, or differs by more than ``tolerance``.
    """
    worst = 0.0
    for name, golden in wanted["outputs"].items():
        value = found[name]
        if list(value.shape) != golden["shape"]:
            raise CheckFailed(
                f"{where}: {name} has the shape {value.shape}, it was {tuple(golden['shape'])}."
            )
        flat = value.astype(np.float64).ravel()
        if not np.isfinite(flat).all():
            raise CheckFailed(f"{where}: {name} holds NaN or Inf for the golden inputs.")
        difference = np.abs(flat[_places(flat.size)] - golden["values"]).max() / (golden["scale"] or 1.0)
        worst = max(worst, float(difference))
        if difference > tolerance:
            raise CheckFailed(
                f"{where}: {name} differs from its golden values by {difference:.2g} of its largest value; "
                f"allowed are {tolerance:g}. The arithmetic here is not what it was at export."
            )
    return worst


def read(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Return the golden entries by role, or ``role@profile``; empty where the bundle has none.

    Raises:
        BundleError: the file is not what the format says.
    """
    return read_file(bundle.path / FILE) if FILE in bundle.files else {}


def read_file(file: Path) -> dict[str, dict[str, Any]]:
    """Return the golden entries in ``file``; see :func:`read`.

    Raises:
        BundleError: the file is not what the format says.
    """
    root = Fields(read_json(file, limit=_LIMIT), str(file))
    if root.text("format") != FORMAT:
        raise BundleError(f"{root.where}.format: {root.text('format')!r}; this edgediff reads {FORMAT}.")
    return {role: _checked(graph) for role, graph in root.items("graphs")}


def _checked(graph: Fields) -> dict[str, Any]:
    shapes = {}
    for name, tensor in graph.items("inputs"):
        shape = tensor.wholes_of("shape")
        if any(extent < 0 for extent in shape) or np.prod(shape, dtype=np.float64) > _LARGEST:
            raise BundleError(f"{tensor.where}.shape: {list(shape)} is no shape of a small input.")
        shapes[name] = (tensor.one_of("dtype", ("float32", "float16", "int64", "int32", "bool")), shape)
    outputs = {}
    for name, tensor in graph.items("outputs"):
        shape, values = tensor.wholes_of("shape"), tensor.numbers("values", _PLACES)
        if len(values) != min(int(np.prod(shape, dtype=np.int64)), _PLACES):
            raise BundleError(f"{tensor.where}.values: {len(values)} do not fit the shape {list(shape)}.")
        outputs[name] = {"shape": list(shape), "scale": tensor.number("scale", 0), "values": list(values)}
    return {"inputs": shapes, "outputs": outputs}
