"""What plan files have in common: objects of words and numbers, read with limits and clear errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edgediff.errors import InputError

ENTRIES = 100_000
NAME = 200
"""Characters of a name or a reason that are kept or shown."""
_LISTED = 5
_LIMIT = 8 << 20


def read_bytes(path: Path) -> bytes:
    """All of a plan's file.

    Raises:
        InputError: there is no such file, or it is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise InputError(f"{path}: the plan cannot be read ({error.strerror}).") from error
    if len(data) > _LIMIT:
        raise InputError(f"{path}: larger than {_LIMIT} bytes; a plan names a few thousand layers.")
    return data


def table(value: Any, where: str) -> dict[str, Any]:
    """An object of at most ``ENTRIES`` entries.

    Raises:
        InputError: it is none, or larger.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where}: is {shown(value)}, expected an object.")
    if len(value) > ENTRIES:
        raise InputError(f"{where}: {len(value)} entries are more than the {ENTRIES} allowed.")
    return value


def words(value: Any, where: str) -> dict[str, dict[str, Any]]:
    """Words by role and scope.

    Raises:
        InputError: something else stands there.
    """
    found = {role: table(each, f"{where}.{role}") for role, each in table(value, where).items()}
    for role, said in found.items():
        for scope, word in said.items():
            if not isinstance(word, str):
                raise InputError(f"{where}.{role}: {scope[:NAME]} is {shown(word)}, expected a word.")
    return found


def numbers(value: Any, where: str) -> dict[Any, float]:
    """Finite numbers by name.

    Raises:
        InputError: something else stands there.
    """
    found = table(value, where)
    for name, number in found.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise InputError(f"{where}: {name[:NAME]} is {shown(number)}, expected a number.")
    return {name: float(number) for name, number in found.items()}


def sensitivity(value: Any, where: str) -> dict[str, dict[str, Any]]:
    """Numbers by role, scope and choice.

    Raises:
        InputError: something else stands there.
    """
    return {
        role: {
            scope: numbers(each, f"{where}.{role}.{scope[:NAME]}")
            for scope, each in table(layers, f"{where}.{role}").items()
        }
        for role, layers in table(value, where).items()
    }


def shown(value: Any) -> str:
    """A value as a message has it."""
    return "missing" if value is None else repr(value)[:60]


def listed(names: list[str]) -> str:
    """The first few of many names."""
    few = ", ".join(name[:NAME] for name in names[:_LISTED])
    return few if len(names) <= _LISTED else f"{few} and {len(names) - _LISTED} more"
