"""A component's tensors with an adapter's changes added while rows are read: memory holds no second copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgediff.errors import SourceError
from edgediff.export.lora.match import Step
from edgediff.export.tensors import Entry, Tensors

Array = np.ndarray[Any, Any]
_EPS = np.float32(np.finfo(np.float32).eps)  # as LyCORIS adds it, against rows of zeros


class AdaptedTensors:
    """Other tensors, some of them changed by one adapter. ``path`` is the adapter's, for messages.

    A changed tensor is float32 whatever its entry says: W + factor * delta and, for DoRA (Liu et al. 2024,
    arXiv:2402.09353), W + blend * (magnitude * (W + factor * delta) / norm - W), where the norm is that of
    each output's (or input's) weights.
    """

    def __init__(self, tensors: Tensors, steps: Mapping[str, Step], path: Path) -> None:
        self._tensors = tensors
        self._steps = steps
        self._path = path

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Shape, type and file of every tensor, as the checkpoint has them."""
        return self._tensors.entries

    def rows(self, name: str, limit: int) -> Iterator[Array]:
        """A tensor in runs along its first axis of about ``limit`` bytes as the checkpoint stores them."""
        step = self._steps.get(name)
        if step is None:
            yield from self._tensors.rows(name, limit)
            return
        magnitude = norms = None
        if step.magnitude is not None:
            magnitude = step.magnitude.matrix().reshape(-1)
            if step.by_columns:
                norms = self._column_norms(name, limit, step)
        first = 0
        for run, new in self._added(name, limit, step):
            if magnitude is not None:
                _rescale(new, magnitude, norms, first)
                if step.blend != 1:
                    old = run.astype(np.float32).reshape(new.shape)
                    new = old + np.float32(step.blend) * (new - old)
            if not np.isfinite(new).all() and np.isfinite(run).all():
                raise SourceError(f"{self._path}: makes {name} overflow. Give it a smaller scale.")
            first += len(new)
            yield new.reshape(run.shape)

    def whole(self, name: str) -> Array:
        """All of a tensor."""
        if name not in self._steps:
            return self._tensors.whole(name)
        return np.concatenate(list(self.rows(name, 1 << 62))).reshape(self.entries[name].shape)

    def _added(self, name: str, limit: int, step: Step) -> Iterator[tuple[Array, Array]]:
        """Each run as it was, and as a float32 matrix with the change added."""
        delta, first = step.delta.open(), 0
        for run in self._tensors.rows(name, limit):
            with np.errstate(over="ignore", invalid="ignore"):
                new = delta(first, len(run))
                new *= np.float32(step.factor)
                new += run.reshape(new.shape)
            first += len(run)
            yield run, new
            del new  # or the next run would be made while this one is held

    def _column_norms(self, name: str, limit: int, step: Step) -> Array:
        """The norm of each input's weights over all outputs and the kernel; takes a pass of its own."""
        inputs = self.entries[name].shape[1]
        squares = np.zeros(inputs)
        for _, new in self._added(name, limit, step):
            squares += np.square(new.reshape(len(new), inputs, -1), dtype=np.float64).sum((0, 2))
        return np.sqrt(squares).astype(np.float32)


def _rescale(new: Array, magnitude: Array, norms: Array | None, first: int) -> None:
    if norms is None:
        new *= (magnitude[first : first + len(new)] / (np.linalg.norm(new, axis=1) + _EPS))[:, None]
    else:
        by_input = new.reshape(len(new), len(norms), -1)
        by_input *= (magnitude / (norms + _EPS))[None, :, None]
