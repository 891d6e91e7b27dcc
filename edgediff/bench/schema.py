"""The JSON Schema of a record, made from its dataclasses. ``python -m edgediff.bench.schema`` prints it.

It stands in ``record.schema.json``, from which other languages make their types.
"""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from edgediff.bench.record import FORMAT, Record, Samples

FILE = Path(__file__).with_name("record.schema.json")
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
_STATISTICS = ("n", "median", "p90", "p99", "min", "max")


def schema() -> dict[str, Any]:
    """Return the schema."""
    known: dict[str, Any] = {}
    root = _of(Record, known)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"What edgediff bench measured ({FORMAT})",
        **root,
        "$defs": dict(sorted(known.items())),
    }


def text() -> str:
    """Return the content of ``record.schema.json``."""
    return json.dumps(schema(), indent=2) + "\n"


def _of(kind: Any, known: dict[str, Any]) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if origin in (Union, types.UnionType):
        some = [_of(each, known) for each in inner if each is not type(None)]
        return {"anyOf": [*some, {"type": "null"}]}
    if kind is Samples:
        known["Samples"] = _samples()
        return {"$ref": "#/$defs/Samples"}
    if kind is Record:
        return _object(kind, known)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        known[kind.__name__] = _object(kind, known)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin is tuple:
        return {"type": "array", "items": _of(inner[0], known)}
    if origin is not None:
        return {"type": "object", "additionalProperties": _of(inner[1], known)}
    return {"type": _PLAIN[kind]}


def _object(kind: Any, known: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    properties = {each.name: _of(hints[each.name], known) for each in fields(kind)}
    if kind is Record:
        properties["format"] = {"const": FORMAT}
    required = [
        each.name
        for each in fields(kind)
        if each.name == "format" or (each.default is MISSING and each.default_factory is MISSING)
    ]
    described = " ".join((kind.__doc__ or "").split())
    return {
        "type": "object", "description": described, "required": required, "properties": properties,
    }  # fmt: skip


def _samples() -> dict[str, Any]:
    numbers = {name: {"type": "integer" if name == "n" else "number"} for name in _STATISTICS}
    return {
        "type": "object",
        "description": " ".join((Samples.__doc__ or "").split()),
        "required": [*_STATISTICS, "values"],
        "properties": {
            **numbers, "values": {"type": "array", "minItems": 1, "items": {"type": "number"}},
        },
    }  # fmt: skip


if __name__ == "__main__":
    print(text(), end="")
