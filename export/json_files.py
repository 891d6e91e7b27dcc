"""Reads JSON that others wrote: bounded, without duplicate keys, NaN or bottomless nesting."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from edgediff.errors import SourceError

_LIMIT = 16 << 20


def read_json(path: Path, limit: int = _LIMIT, unbounded: bool = False) -> dict[str, Any]:
    """The object in a file. SourceError says what is wrong with it.

    ``unbounded`` drops keys whose value is infinite: diffusers writes "lambda_min_clipped": -Infinity, which
    no other JSON reader takes and which says what leaving the key out says.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}).") from error
    if len(data) > limit:
        raise SourceError(f"{path}: larger than {limit} bytes.")
    return parse_json(data, str(path), unbounded)


def parse_json(data: bytes, where: str, unbounded: bool = False) -> dict[str, Any]:
    """The object in some bytes."""
    if data.startswith(b"version https://git-lfs"):
        raise SourceError(f"{where}: a Git LFS pointer instead of the file. Fetch it with 'git lfs pull'.")
    constant = _infinity if unbounded else _refuse
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=constant)
        if unbounded and isinstance(value, dict):
            value = {key: held for key, held in value.items() if held not in (math.inf, -math.inf)}
        dump_json(value)  # refuses what JSON cannot hold although Python reads it: 1e999, lone surrogates
    except RecursionError:
        raise SourceError(f"{where}: nested too deeply.") from None
    except ValueError as error:
        raise SourceError(f"{where}: not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise SourceError(f"{where}: expected a JSON object, found {type(value).__name__}.")
    return value


def dump_json(value: Any) -> bytes:
    """Bytes that depend on the value only."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _infinity(constant: str) -> Any:
    return float(constant) if constant != "NaN" else _refuse(constant)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")
