"""Between a record and its JSON, by the types of the dataclasses' fields."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from edgediff.bench.record import FORMAT, Record, Samples
from edgediff.errors import InputError

_LIMIT = 64 << 20


def stored(value: Any) -> Any:
    """Return a value of a record as JSON holds it."""
    if isinstance(value, Samples):
        return value.stored()
    if is_dataclass(value):
        return {each.name: stored(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: stored(each) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [stored(each) for each in value]
    return value


def restored(text: str | bytes, where: str) -> Record:
    """Return the record in ``text``.

    Raises:
        InputError: it is no such record, or of another format.
    """
    if len(text) > _LIMIT:
        raise InputError(
            f"{where}: {len(text)} bytes are no record of edgediff bench; {_LIMIT} are the most."
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: it is no JSON ({str(error)[:100]}); give what bench --json wrote."
        ) from None
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        raise InputError(
            f"{where}: its format is {found!r:.40} and this edgediff reads {FORMAT}; measure again with it."
        )
    record: Record = _made(Record, value, where)
    return record


def _made(kind: Any, value: Any, where: str) -> Any:
    """A value of the type ``kind``, from what JSON has in its place."""
    if kind is Any:
        return value
    if get_origin(kind) in (Union, types.UnionType):
        inner = [each for each in get_args(kind) if each is not type(None)]
        return None if value is None else _made(inner[0], value, where)
    if kind is Samples:
        return _samples(value, where)
    if is_dataclass(kind):
        return _object(kind, value, where)
    if get_origin(kind) is tuple:
        return tuple(
            _made(get_args(kind)[0], each, f"{where}[{i}]") for i, each in enumerate(_of(list, value, where))
        )
    if get_origin(kind) is not None:
        inner = get_args(kind)[1]
        return {name: _made(inner, each, f"{where}.{name}") for name, each in _of(dict, value, where).items()}
    if kind is float:
        return _number(value, where)
    return _of(kind, value, where)


def _object(kind: Any, value: Any, where: str) -> Any:
    given = _of(dict, value, where)
    hints = get_type_hints(kind)
    made = {}
    for each in fields(kind):
        if each.name in given:
            made[each.name] = _made(hints[each.name], given[each.name], f"{where}.{each.name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise InputError(f"{where}.{each.name}: it is missing; give what bench --json wrote.")
    return kind(**made)


def _samples(value: Any, where: str) -> Samples:
    values = _of(list, _of(dict, value, where).get("values"), f"{where}.values")
    if not values:
        raise InputError(f"{where}.values: it is empty; a measurement has at least one.")
    return Samples(tuple(_number(each, f"{where}.values") for each in values))


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: expected a number, found {value!r:.40}.")
    return float(value)


def _of(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: expected {_NAMES.get(kind, kind.__name__)}, found {value!r:.40}.")
    return value


_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}
