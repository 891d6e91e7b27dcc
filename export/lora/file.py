"""Reads an adapter's safetensors file: its header, its names, and whether its parts are all there.

Nothing but headers and the scalars ``alpha`` is read here; the factors follow when the weights are written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite, prod
from pathlib import Path

import numpy as np

from edgediff.errors import InputError, SourceError, UnsupportedError
from edgediff.export.json_files import parse_json
from edgediff.export.lora.deltas import Delta, Piece, delta_of, difference
from edgediff.export.lora.keys import PEFT, other_kind, parse_key
from edgediff.export.lora.scaling import Scaling, scalings
from edgediff.export.sources import PICKLES, pickled
from edgediff.export.tensors import Entry, read_header

_BYTES_LIMIT, _HEADER_LIMIT, _TENSOR_LIMIT = 4 << 30, 8 << 20, 16384
_NAMES_IN_A_FOLDER = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_OTHER_SCALARS = {"F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2"}  # as trainers have stored alpha
_BIASES, _MODIFIERS = ("diff_b", "up_bias"), ("alpha", "dora_scale", "magnitude")
LISTED = 8


@dataclass(frozen=True, slots=True)
class Change:
    """What an adapter does to one module of ``component``, spelt ``module`` in the file, by these ``keys``.

    The weight gains ``factor * weight``, the bias gains ``bias_factor * bias``; ``factor`` is alpha / rank.
    ``magnitude`` (DoRA) then rescales the weight; ``of_peft`` says by whose convention.
    """

    component: str
    module: str
    keys: tuple[str, ...]
    weight: Delta | None
    factor: float
    bias: Delta | None
    bias_factor: float
    magnitude: Piece | None
    of_peft: bool


@dataclass(frozen=True, slots=True)
class Adapter:
    """A file's changes and the strength at which they are applied."""

    path: Path
    scale: float
    metadata: Mapping[str, str]
    changes: tuple[Change, ...]


def read_adapter(path: str | Path, scale: float = 1.0) -> Adapter:
    """Read the header of an adapter: a safetensors file, or a folder as peft or diffusers saves one.

    InputError for a missing file, SourceError for a damaged, pickled or incomplete one and for names that are
    part of no adapter, UnsupportedError for kinds that are not covered and for what exceeds the limits
    (4 GiB, 8 MiB of header, 16384 tensors, rank 1024).
    """
    file = _file(Path(path))
    metadata, entries = _header(file)
    grouped: dict[tuple[str, str], dict[str, Piece]] = {}
    unknown: list[str] = []
    for name, entry in entries.items():
        key = parse_key(name)
        if key is None:
            unknown.append(name)
            continue
        parts = grouped.setdefault((key.component, key.module), {})
        if key.part in parts:
            raise SourceError(f"{file}: {parts[key.part].name} and {name} are the same part of one module.")
        parts[key.part] = Piece(name, entry)
    if unknown:
        raise _not_covered(file, unknown)
    told = scalings(file, metadata, any(name.startswith(PEFT) for name in entries))
    changes = [
        _change(file, component, module, parts, told.get(component, told.get("", Scaling())))
        for (component, module), parts in grouped.items()
    ]
    return Adapter(file, scale, metadata, tuple(changes))


def _file(path: Path) -> Path:
    if path.suffix.lower() in PICKLES:
        raise SourceError(pickled(path))
    if path.is_dir():
        found = [path / name for name in _NAMES_IN_A_FOLDER if (path / name).is_file()]
        if len(found) != 1:
            raise InputError(
                f"{path}: is a folder that holds {len(found)} adapters of known names. Name a file."
            )
        return found[0]
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a LoRA's .safetensors file.")
    return path


def _header(path: Path) -> tuple[Mapping[str, str], Mapping[str, Entry]]:
    """Metadata and tensors; limits are checked before anything is allocated by them."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if size > _BYTES_LIMIT or _HEADER_LIMIT < length <= size:
                raise UnsupportedError(
                    f"{path}: {size} bytes with a header of {length}; adapters are read up to {_BYTES_LIMIT} "
                    f"with a header of {_HEADER_LIMIT}."
                )
            text = file.read(length) if length <= size else b""
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}).") from error
    entries = read_header(path)
    if not 0 < len(entries) <= _TENSOR_LIMIT:
        raise UnsupportedError(f"{path}: {len(entries)} tensors; adapters have 1 to {_TENSOR_LIMIT}.")
    for name, entry in entries.items():
        if not name.isprintable() or len(name) > 512:
            raise SourceError(f"{path}: a tensor is called {name[:100]!a}; the file is damaged.")
        if not entry.known and not (prod(entry.shape) == 1 and entry.dtype in _OTHER_SCALARS):
            raise SourceError(f"{path}: tensor {name[:100]} is {entry.dtype}; factors are F32, F16 or BF16.")
    metadata = parse_json(text, str(path)).get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SourceError(f"{path}: its metadata is not text by name; the file is damaged.")
    return metadata, entries


def _change(path: Path, component: str, module: str, parts: Mapping[str, Piece], told: Scaling) -> Change:
    where = f"{path}: {component} {module}"
    weights = {part: p for part, p in parts.items() if part not in (*_BIASES, *_MODIFIERS)}
    delta = delta_of(weights, where) if weights else None
    biases = [part for part in _BIASES if part in parts]
    magnitudes = [part for part in ("dora_scale", "magnitude") if part in parts]
    if len(biases) > 1 or len(magnitudes) > 1 or (delta is None and (magnitudes or not biases)):
        raise SourceError(f"{where}: {', '.join(sorted(parts))} make no adapter of a known kind.")
    factor = 1.0
    if delta is not None and "diff" not in parts:
        if "alpha" not in parts:
            factor = told.factor(module, delta.rank)
        elif delta.rank is not None:
            factor = _alpha(parts["alpha"]) / delta.rank
    return Change(
        component=component,
        module=module,
        keys=tuple(piece.name for piece in parts.values()),
        weight=delta,
        factor=factor,
        bias=difference(parts[biases[0]]) if biases else None,
        bias_factor=factor if "up_bias" in biases else 1.0,
        magnitude=parts[magnitudes[0]] if magnitudes else None,
        of_peft="magnitude" in magnitudes,
    )


def _alpha(piece: Piece) -> float:
    entry = piece.entry
    if prod(entry.shape) != 1:
        raise SourceError(f"{entry.file}: {piece.name} has shape {entry.shape}; expected one number.")
    if entry.known:
        alpha = float(Piece(piece.name, replace(entry, shape=(1,))).rows(0, 1)[0, 0])
    else:
        alpha = float(np.fromfile(entry.file, _OTHER_SCALARS[entry.dtype], 1, offset=entry.begin)[0])
    if not (isfinite(alpha) and alpha > 0):
        raise SourceError(f"{entry.file}: {piece.name} is {alpha}; expected a positive number.")
    return alpha


def _not_covered(path: Path, names: Iterable[str]) -> SourceError | UnsupportedError:
    names = list(names)
    kind = next((kind for name in names if (kind := other_kind(name)) is not None), None)
    if kind is not None:
        return UnsupportedError(
            f"{path}: holds {kind} ({names[0][:100]}), which is not covered; LoRA, LoCon, LoHa, LoKr, DoRA "
            "and full differences are."
        )
    return SourceError(f"{path}: {len(names)} tensors are no part of a LoRA: {listed(names)}.")


def listed(names: Iterable[str]) -> str:
    """The first names of many, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(name[:240] for name in names[:LISTED]) + more
