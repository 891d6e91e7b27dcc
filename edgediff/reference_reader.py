"""From the bytes of ``quality.npz`` to a :class:`~edgediff.reference.Record`, every part of it checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgediff import archive, manifest
from edgediff.errors import BundleError
from edgediff.manifest import Fields
from edgediff.reference import FORMAT, GIVEN, Array, Call, Pass, Record, Sample

_MAX_CALLS, _MAX_PASSES, _MAX_TENSORS = 64, 1024, 64
_MAX_ELEMENTS = 1 << 26  # of all tensors together: rows are stored once and may be asked for often
_STORED = ("float32", "float16", "int64", "int32", "uint8", "bool")
_NUMBERS = {"guidance_scale": (0.0, 100.0), "strength": (0.0, 1.0), "image_guidance_scale": (0.0, 100.0)}
_WHOLES = {"num_inference_steps": 1000, "height": 16384, "width": 16384}


def record_of(raw: bytes, where: str) -> Record:
    """Return what a file's bytes hold; see :func:`edgediff.reference.parse`.

    Raises:
        BundleError: they are not what the format says.
    """
    text, members = archive.unpacked(raw, where)
    rows = _Rows(members)
    root = Fields(manifest.parse_json(text, f"{where}: {archive.TEXT}"), where)
    if root.text("format") != FORMAT:
        raise BundleError(f"{where}.format: {root.text('format')!r}; this edgediff reads {FORMAT}.")
    given = {name: _get(f, rows) for name, f in root.items("given")}
    if not given.keys() <= set(GIVEN):
        raise BundleError(f"{where}.given: expected only {', '.join(GIVEN)}, found {sorted(given)!r:.60}.")
    calls, passes = root.objects("calls"), root.objects("passes")
    if len(calls) > _MAX_CALLS or len(passes) > _MAX_PASSES:
        raise BundleError(f"{where}: {len(calls)} calls, {len(passes)} passes; that is more than are read.")
    return Record(
        _settings(root.at("settings")),
        [_call(f, rows, given) for f in calls],
        [_pass(f, rows) for f in passes],
        given,
    )


def _settings(f: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in f.value:
        if name in _WHOLES:
            found[name] = f.whole(name, 1, _WHOLES[name])
        elif name in _NUMBERS:
            found[name] = f.number(name, *_NUMBERS[name])
        elif name == "sampler":
            found[name] = f.text(name, 64)
        else:
            raise BundleError(f"{f.where}: {name!r:.60} is no setting of a call.")
    return found


def _call(f: Fields, rows: _Rows, given: Mapping[str, Array]) -> Call:
    prompt = f.anything("prompt")
    if not isinstance(prompt, str) or len(prompt) > 16384:
        raise BundleError(f"{f.where}.prompt: expected a text of at most 16384 characters.")
    names = f.texts("given", len(GIVEN))
    if not set(names) <= given.keys():
        raise BundleError(f"{f.where}.given: {list(names)} are not all among the given pictures.")
    picture = f.maybe("picture")
    shown = None if picture is None else _get(picture, rows)
    if shown is not None and (shown.dtype != np.uint8 or shown.ndim != 3):
        raise BundleError(f"{f.where}.picture: an array of {shown.dtype} {shown.shape} is no picture.")
    seed = f.whole("seed", 0, (1 << 63) - 1)
    return Call(prompt, seed, names, _get(f.at("latents"), rows), shown)


def _pass(f: Fields, rows: _Rows) -> Pass:
    inputs, outputs = f.items("inputs"), f.items("outputs")
    if not 1 <= len(inputs) <= _MAX_TENSORS or not 1 <= len(outputs) <= _MAX_TENSORS:
        raise BundleError(f"{f.where}: expected 1 to {_MAX_TENSORS} inputs and outputs.")
    return Pass(
        f.text("role", 64),
        {name: _get(each, rows) for name, each in inputs},
        {name: _sample(each, rows) for name, each in outputs},
    )


def _sample(f: Fields, rows: _Rows) -> Sample:
    shape, stride, values = _shape(f, "of"), f.whole("stride", 1, 1 << 30), _get(f, rows)
    channels = None
    if "channels" in f:
        channels = f.whole("channels", 1, shape[1] if len(shape) > 1 else 1)
    kept = shape if channels is None else (shape[0], channels, *shape[2:])
    if values.shape != (-(-math.prod(kept) // stride),):
        raise BundleError(f"{f.where}: {values.shape} is not every {stride}th of {list(kept)}.")
    return Sample(shape, stride, values, channels)


def _shape(f: Fields, key: str) -> tuple[int, ...]:
    shape = f.wholes_of(key)
    if len(shape) > 8 or any(n < 1 for n in shape) or math.prod(shape) > _MAX_ELEMENTS:
        raise BundleError(f"{f.where}.{key}: {list(shape)!r:.60} is the shape of nothing that is read.")
    return shape


class _Rows:
    """The members of a file, and how many more numbers may be made of them."""

    def __init__(self, members: Mapping[str, Array]) -> None:
        self._members = members
        self._left = _MAX_ELEMENTS

    def of(self, names: Sequence[str], count: int, size: int, where: str) -> list[Array]:
        """The rows of these names, if there are ``count`` of ``size`` numbers each."""
        missing = [name for name in names if name not in self._members]
        if missing:
            raise BundleError(f"{where}.rows: there is no member {missing[0]!r:.60}.")
        found = [self._members[name].ravel() for name in names]
        if len(found) != count or {row.size for row in found} != {size}:
            raise BundleError(f"{where}.rows: these are not {count} rows of {size} numbers.")
        self._left -= count * size
        if self._left < 0:
            raise BundleError(f"{where}: all tensors together have more than {_MAX_ELEMENTS} numbers.")
        return found


def _get(f: Fields, rows: _Rows) -> Array:
    shape, dtype, names = _shape(f, "shape"), f.one_of("dtype", _STORED), f.texts("rows", 4096)
    count = shape[0] if len(shape) > 1 else 1
    found = rows.of(names, count, math.prod(shape) // count, f.where)
    kept = {row.dtype.name for row in found}
    if not kept <= ({dtype, "float16"} if dtype == "float32" else {dtype}):
        raise BundleError(f"{f.where}.rows: {', '.join(sorted(kept))} is stored for {dtype}.")
    joined = np.concatenate(found).astype(dtype, copy=False).reshape(shape)
    if joined.dtype.kind == "f" and not np.isfinite(joined).all():
        raise BundleError(f"{f.where}: it holds NaN or Inf, and nothing can be compared with that.")
    return joined
