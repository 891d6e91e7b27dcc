"""The table of operations that the interpreter knows, and what each is given when a program is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import BundleError, ResourceError, UnsupportedError

Array = NDArray[Any]
Kernel = Callable[..., Any]
"""Computes one operation. It never writes on its arguments; what it returns is its own, unless the operation
is ``exact``: then it may be a view of an argument."""

MAX_ELEMENTS = 1 << 31  # of one value: 8 GiB as float32
_DTYPES: Mapping[str, type[Any]] = {
    "float16": np.float32,  # see _mil_float16
    "float32": np.float32,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "uint32": np.uint32,
    "bool": np.bool_,
}
_REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Known:
    """How an operation is made: ``tensors`` are the arguments that its kernel takes, in order; a name with
    ``?`` may be missing and is None then, one with ``*`` is a tuple of values. ``exact``: its results need no
    rounding, since they only move or choose among its arguments' values."""

    make: Callable[[Given], Kernel]
    tensors: tuple[str, ...]
    exact: bool


KNOWN: dict[str, Known] = {}


def operation(
    *types: str, tensors: str = "x", exact: bool = False
) -> Callable[[Callable[[Given], Kernel]], Callable[[Given], Kernel]]:
    """Enter a function that makes kernels into the table, under every type named."""

    def enter(make: Callable[[Given], Kernel]) -> Callable[[Given], Kernel]:
        for kind in types:
            KNOWN[kind] = Known(make, tuple(tensors.split()), exact)
        return make

    return enter


class Given:
    """One operation of a program as it is loaded: its parameters, of which kernels are made.

    ``constants`` are those arguments whose values the program holds; ``present`` is every argument's name.
    """

    def __init__(
        self,
        kind: str,
        where: str,
        present: frozenset[str],
        constants: Mapping[str, Callable[[], Any]],
        dtypes: tuple[str, ...],
        shapes: tuple[tuple[int | None, ...] | None, ...],
    ) -> None:
        self.kind, self.where = kind, where
        self.dtypes, self.shapes = dtypes, shapes
        self.read: set[str] = set()
        self._present, self._constants = present, constants

    def has(self, name: str) -> bool:
        """Whether the argument is given at all."""
        return name in self._present

    def known(self, name: str) -> bool:
        """Whether the argument's value stands in the program."""
        return name in self._constants

    def value(self, name: str, default: Any = _REQUIRED) -> Any:
        """A parameter's value: a number, text, a truth value or a list of them.

        Raises:
            UnsupportedError: the program computes it, which this interpreter allows for tensors only.
            BundleError: it is missing.
        """
        self.read.add(name)
        if name not in self._present:
            if default is _REQUIRED:
                raise BundleError(f"{self.where} lacks its parameter {name!r}; export the package again.")
            return default
        if name not in self._constants:
            raise self.unsupported(f"parameter {name!r} is computed, not a constant")
        found = self._constants[name]()
        if isinstance(found, np.ndarray | np.generic):
            return found.item() if np.ndim(found) == 0 else np.asarray(found).tolist()
        return found

    def integers(self, name: str, default: Any = _REQUIRED) -> Any:
        """A parameter that is a list of whole numbers, or ``default``."""
        found = self.value(name, default)
        if found is default:
            return found
        try:
            return [int(number) for number in (found if isinstance(found, list | tuple) else [found])]
        except (TypeError, ValueError):
            raise BundleError(f"{self.where}: parameter {name!r} is {found!r}, not whole numbers.") from None

    def choice(self, name: str, default: str, *allowed: str) -> str:
        """A parameter that is one of some words, whatever their case; the first rest is ``default``."""
        found = str(self.value(name, default))
        for word in (default, *allowed):
            if found.lower() == word.lower():
                return word
        raise self.unsupported(f"{name} {found!r} (known: {', '.join(dict.fromkeys((default, *allowed)))})")

    def unsupported(self, what: str) -> UnsupportedError:
        """The error for a form of an operation that has no kernel here."""
        return UnsupportedError(
            f"{self.where}: {what}; the interpreter of ML programs computes no such thing. "
            "Run the package with Core ML, on a Mac."
        )


def dtype_of(name: str) -> type[Any] | None:
    """The NumPy type in which values of a MIL type are held, or None where there is none."""
    return _DTYPES.get(name)


def room(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` if a value of it may be made.

    Raises:
        ResourceError: it has more than 2^31 elements.
    """
    count = 1
    for size in shape:
        count *= max(int(size), 1)
    if count > MAX_ELEMENTS:
        raise ResourceError(f"a value of shape {list(shape)} has over 2^31 elements; ask for a smaller size.")
    return shape
