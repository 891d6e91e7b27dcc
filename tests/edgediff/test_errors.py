"""The error tree: as drawn in its docstring, with unique codes and the exit codes that the drawing names."""

from __future__ import annotations

import inspect
import re

import pytest

import edgediff
from edgediff import errors

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.EdgediffError)
}


def drawn() -> dict[str, tuple[int, str, int]]:
    """Return name -> (depth, parent, exit code) as the docstring draws them."""
    found: dict[str, tuple[int, str, int]] = {}
    above = [("", -1)]
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ( *)(?:[+-] )?([A-Z]\w+) +(\d+)    \S.*", line)
        if match:
            depth = len(match[1])
            while above[-1][1] >= depth:
                above.pop()
            found[match[2]] = (depth, above[-1][0], int(match[3]))
            above.append((match[2], depth))
    return found


def test_the_drawing_is_the_tree() -> None:
    drawing = drawn()
    assert set(drawing) == set(CLASSES)
    for name, (_, parent, exit_code) in drawing.items():
        assert CLASSES[name].exit_code == exit_code, name
        if parent:
            assert CLASSES[name].__bases__[0] is CLASSES[parent], name


def test_codes_are_stable_words() -> None:
    codes = [value.code for value in CLASSES.values()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch("[a-z_]+", code) for code in codes)
    for name, value in CLASSES.items():
        assert {"code", "exit_code"} <= set(vars(value)), f"{name} inherits its code"
        assert value.__doc__, name


def test_all_are_exported() -> None:
    assert set(CLASSES) <= set(edgediff.__all__)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_they_can_be_caught_as_one(name: str) -> None:
    with pytest.raises(edgediff.EdgediffError, match="message"):
        raise CLASSES[name]("message")
