"""A program's constants: kept as they are stored, as arrays to compute with where memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from edgediff.mil_blob import Blobs
from edgediff.mil_constants import decoded
from edgediff.mil_program import Constant, Operation, TypeOf
from edgediff.runtimes._mil_operations import Array


class Stored:
    """A constant; :meth:`value` gives what operations compute with, floats as float32."""

    __slots__ = ("_held", "_read", "elements")

    def __init__(self, read: Callable[[], Any], elements: int) -> None:
        self._read, self.elements = read, elements
        self._held: Any = None

    def value(self) -> Any:
        """The array, or the text or list of texts."""
        return self._made() if self._held is None else self._held

    def raw(self) -> Any:
        """The value in the type in which it is stored."""
        return self._read()

    def hold(self) -> None:
        """Keep what :meth:`value` gives; it is made anew each time otherwise."""
        self._held = self._made()

    def _made(self) -> Any:
        found = self._read()
        if isinstance(found, np.ndarray) and found.dtype == np.float16:
            return found.astype(np.float32)
        return found


def literal(constant: Constant, blobs: Blobs) -> Stored:
    """A constant that stands in the program or in its file of weights. Of the latter the bytes are read each
    time: the system's cache of files holds them, and gives them up where memory is short."""
    elements = _elements(constant.type)
    return Stored(lambda: blobs.value(constant), elements)


def compressed(operation: Operation, values: Mapping[str, Stored], place: int) -> Stored:
    """What a ``constexpr_*`` operation makes; the sparse ones make two arrays."""

    def read() -> Array:
        found = decoded(operation, {name: value.raw() for name, value in values.items()})
        return found[place] if isinstance(found, tuple) else found

    return Stored(read, _elements(operation.outputs[place].type))


def _elements(declared: TypeOf) -> int:
    return prod(1 if size is None else size for size in declared.shape)


def hold(constants: Iterable[Stored], budget: int) -> None:
    """Keep the smallest constants as arrays, up to ``budget`` bytes in all."""
    for constant in sorted(constants, key=lambda constant: constant.elements):
        budget -= constant.elements * 4
        if budget < 0:
            return
        constant.hold()
