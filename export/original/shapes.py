"""The shapes of a file's tensors below a prefix: all that configurations are made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from edgediff.errors import SourceError
from edgediff.export.tensors import Entry

_MOST = 1024  # layers of one kind; real models have below 100


class Shapes:
    """Shapes by name. ``prefix`` is left out of the names; ``where`` is the file that messages name."""

    def __init__(self, where: Path, entries: Mapping[str, Entry], prefix: str = "") -> None:
        self.where = where
        self.prefix = prefix
        self._shapes = {
            name.removeprefix(prefix): entry.shape
            for name, entry in entries.items()
            if name.startswith(prefix)
        }

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def of(self, name: str, rank: int) -> tuple[int, ...]:
        """A tensor's shape, of ``rank`` positive extents.

        Raises:
            SourceError: the tensor is missing, or of another rank.
        """
        shape = self._shapes.get(name)
        if shape is None:
            raise SourceError(
                f"{self.where}: tensor {self.prefix}{name} is missing; the model is incomplete."
            )
        if len(shape) != rank or not all(shape):
            raise SourceError(
                f"{self.where}: tensor {self.prefix}{name} is {shape}, expected {rank} extents."
            )
        return shape

    def rank(self, name: str) -> int | None:
        """How many extents a tensor has; None if it is not there."""
        shape = self._shapes.get(name)
        return None if shape is None else len(shape)

    def count(self, pattern: str) -> int:
        """How many of ``pattern``, with {} as 0, 1, 2 and so on, are there."""
        found = 0
        while found < _MOST and pattern.format(found) in self._shapes:
            found += 1
        return found
