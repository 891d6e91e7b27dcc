"""Operations that pick numbers by indices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, operation, room


def _batched(pick: Callable[[Array, Array], Array], batch: int) -> Callable[[Array, Array], Array]:
    """``pick`` for each entry of the leading ``batch`` axes, which both arguments share."""
    if batch == 0:
        return pick

    def kernel(x: Array, indices: Array) -> Array:
        lead = x.shape[:batch]
        if indices.shape[:batch] != lead:
            raise ValueError(f"leading sizes {indices.shape[:batch]} of indices do not fit {lead}")
        rows = [pick(x[place], indices[place]) for place in np.ndindex(*lead)]
        return np.stack(rows).reshape(*lead, *rows[0].shape)

    return kernel


@operation("gather", tensors="x indices", exact=True)
def gather(given: Given) -> Kernel:
    axis, batch = int(given.value("axis", 0)), int(given.value("batch_dims", 0))
    given.value("validate_indices", False)  # indices beyond the array are refused in any case

    def kernel(x: Array, indices: Array) -> Array:
        place = axis % x.ndim
        room((*x.shape[:place], *indices.shape, *x.shape[place + 1 :]))
        return _batched(lambda a, i: np.take(a, i, place - batch), batch)(x, indices)

    return kernel


@operation("gather_along_axis", tensors="x indices", exact=True)
def gather_along_axis(given: Given) -> Kernel:
    axis = int(given.value("axis", 0))
    given.value("validate_indices", False)
    return lambda x, indices: np.take_along_axis(x, indices.astype(np.int64), axis)


@operation("gather_nd", tensors="x indices", exact=True)
def gather_nd(given: Given) -> Kernel:
    """The last axis of the indices holds coordinates."""
    batch = int(given.value("batch_dims", 0))
    given.value("validate_indices", False)

    def pick(x: Array, indices: Array) -> Array:
        room((*indices.shape[:-1], *x.shape[indices.shape[-1] :]))
        return np.asarray(x[tuple(np.moveaxis(indices, -1, 0))])

    return _batched(pick, batch)


@operation("argsort", exact=True)
def argsort(given: Given) -> Kernel:
    axis, ascending = int(given.value("axis", -1)), bool(given.value("ascending", False))
    given.value("output_dtype", "int32")

    def kernel(x: Array) -> Array:
        return np.argsort(x if ascending else -x, axis, kind="stable").astype(np.int32)

    return kernel
