"""Compressed weights of MIL programs: what each constexpr_* operation stands for, as an array.

The formulas are those of the operations' definitions at https://apple.github.io/coremltools (iOS 16 and
iOS 18); an iOS 18 operation has an older namesake with other inputs, told apart by these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import BundleError
from edgediff.mil_numbers import unpacked
from edgediff.mil_program import BITS, Operation
from edgediff.protobuf import Fault

Array = NDArray[Any]
PREFIX = "constexpr_"
MAX_BYTES = 16 << 30  # of one array, decoded


def is_compressed(operation: Operation) -> bool:
    """Return whether an operation stands for a weight that is stored in less bits."""
    return operation.type.startswith(PREFIX)


def decoded(operation: Operation, values: Mapping[str, Any]) -> Array | tuple[Array, ...]:
    """Return the array that a ``constexpr_*`` operation makes, in the element type that it declares.

    ``values`` are its inputs, or attributes in older programs, by name: arrays, and str for names of types.
    The sparse forms make two arrays, the mask and the nonzero numbers. Differences and products are of
    float32, rounded once to the type of the scales.

    Raises:
        BundleError: the operation is of no known kind, or its inputs do not fit each other.
    """
    name = operation.outputs[0].name if operation.outputs else ""
    decode = _DECODERS.get(operation.type)
    if decode is None:
        raise BundleError(
            f"The weight {name!r:.60} is stored as {operation.type}, which edgediff does not read."
        )
    try:
        _check_sizes(operation)
        found = decode(values)
        made = found if isinstance(found, tuple) else (found,)
        for array, output in zip(made, operation.outputs, strict=True):
            if array.shape != output.type.shape:
                raise Fault(f"it is declared {output.type.shape} and comes out {array.shape}")
    except KeyError as error:
        raise BundleError(f"The weight {name!r:.60} ({operation.type}) lacks the input {error}.") from None
    except (Fault, ValueError, TypeError, IndexError, AttributeError) as error:
        raise BundleError(f"The weight {name!r:.60} ({operation.type}) is damaged: {error}.") from error
    return found


def _check_sizes(operation: Operation) -> None:
    for output in operation.outputs:
        size = prod(-1 if axis is None else axis for axis in output.type.shape)
        if size < 0 or size * BITS.get(output.type.dtype, 64) > MAX_BYTES * 8:
            raise Fault(f"its shape {output.type.shape} is not known or too large")


def _blocks(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeat ``values`` along each axis until they are of ``shape``: one number for each block."""
    if values.ndim != len(shape):
        raise Fault(f"there are {values.ndim} axes of scales for {len(shape)} of numbers")
    for axis, size in enumerate(shape):
        given = values.shape[axis]
        if given == 0 or size % given:
            raise Fault(f"{size} numbers of an axis are no multiple of {given}")
        if 1 < given < size:
            values = np.repeat(values, size // given, axis)
    return np.broadcast_to(values, shape)


def _along(value: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """Return a scalar, or a vector that lies along ``axis``."""
    if value.ndim == 0 or value.shape == (1,):
        return value.reshape(())
    if value.shape != (shape[axis],):
        raise Fault(f"{value.shape} scales do not fit {shape[axis]} channels")
    return value.reshape([-1 if place == axis % len(shape) else 1 for place in range(len(shape))])


def _shifted(data: Array, scale: Array, offset: Array | None) -> Array:
    """Return scale * (data - offset) in the scale's type; differences of integers are exact before that."""
    if scale.dtype.kind != "f":
        raise Fault("its scale is no float")
    found = data.astype(np.float32)
    if offset is not None:
        found -= offset.astype(np.float32)
    found *= scale.astype(np.float32)
    return found.astype(scale.dtype)


def _affine(values: Mapping[str, Any]) -> Array:
    data, axis = values["quantized_data"], int(values["axis"])
    if not -data.ndim <= axis < data.ndim:
        raise Fault(f"it has no axis {axis}")
    zero_point = values.get("zero_point")
    zero = None if zero_point is None else _along(zero_point, axis, data.shape)
    return _shifted(data, _along(values["scale"], axis, data.shape), zero)


def _blockwise(values: Mapping[str, Any]) -> Array:
    data, offset = values["data"], values.get("offset")
    blocks = None if offset is None else _blocks(offset, data.shape)
    return _shifted(data, _blocks(values["scale"], data.shape), blocks)


def _cast(values: Mapping[str, Any]) -> Array:
    if str(values["output_dtype"]) not in ("fp32", "fp16"):
        raise Fault("it is cast to what is no float")
    dtype = np.float32 if values["output_dtype"] == "fp32" else np.float16
    return np.asarray(values["source_val"]).astype(dtype)


def _table(values: Mapping[str, Any]) -> Array:
    if "shape" in values:  # iOS 16: one table, indices packed into bytes
        table, shape = values["lut"], tuple(int(size) for size in values["shape"])
        count, bits = prod(shape), len(table).bit_length() - 1
        if table.ndim != 1 or len(table) != 1 << bits or bits not in (1, 2, 4, 6, 8):
            raise Fault(f"a table of {table.shape} numbers has no whole bits")
        packed = values["indices"]
        if packed.dtype != np.uint8 or packed.size != (count * bits + 7) // 8:
            raise Fault(f"{packed.size} bytes do not hold {count} indices of {bits} bits")
        picked: Array = table[packed if bits == 8 else unpacked(packed, bits, count)]
        return picked.reshape(shape)
    axis = values.get("vector_axis")
    return _looked_up(values["indices"], values["lut"], None if axis is None else int(axis))


def _looked_up(indices: Array, table: Array, axis: int | None) -> Array:
    """Return numbers, or vectors along ``axis``, from tables (groups of each axis..., numbers, vector)."""
    if table.ndim != indices.ndim + 2:
        raise Fault(f"a table of {table.ndim} axes for indices of {indices.ndim}")
    groups, (numbers, size) = table.shape[:-2], table.shape[-2:]
    if indices.size and int(indices.max()) >= numbers:
        raise Fault(f"an index is beyond the {numbers} numbers of its table")
    if size != 1 and (axis is None or not -indices.ndim <= axis < indices.ndim):
        raise Fault("vectors have no axis to lie along")
    flat = table.reshape(-1, size)
    # A group's place in the flat table, repeated over the block of indices that use it.
    first = np.arange(prod(groups), dtype=np.int32).reshape(groups) * np.int32(numbers)
    rows = indices if len(flat) == numbers else _blocks(first, indices.shape) + indices
    if size == 1:
        single: Array = flat[:, 0][rows]
        return single
    assert axis is not None
    vectors = np.moveaxis(flat[rows], -1, axis % indices.ndim + 1)
    shape = list(indices.shape)
    shape[axis] *= size
    return vectors.reshape(shape)


def _dense(values: Mapping[str, Any]) -> Array:
    mask, numbers = values["mask"], values["nonzero_data"]
    if "shape" in values:  # iOS 16: the mask is packed into bytes
        shape = tuple(int(size) for size in values["shape"])
        if mask.dtype != np.uint8 or mask.size != (prod(shape) + 7) // 8:
            raise Fault(f"a mask of {mask.size} bytes does not hold {prod(shape)} bits")
        mask = np.unpackbits(mask, bitorder="little", count=prod(shape)).reshape(shape)
    return _scattered(mask, numbers)


def _scattered(mask: Array, numbers: Array) -> Array:
    used = mask != 0
    if numbers.ndim != 1 or int(np.count_nonzero(used)) != len(numbers):
        raise Fault(f"a mask with {int(np.count_nonzero(used))} bits does not fit {numbers.shape} numbers")
    found = np.zeros(mask.shape, numbers.dtype)
    found[used] = numbers
    return found


def _sparse_table(values: Mapping[str, Any]) -> tuple[Array, Array]:
    mask, axis = values["indices_mask"], values.get("vector_axis")
    indices = _scattered(mask, values["indices_nonzero_data"])
    table = values["lut"]
    dense = _looked_up(indices, table, None if axis is None else int(axis))
    if axis is not None and table.shape[-1] > 1:
        mask = np.repeat(mask, table.shape[-1], int(axis))
    return mask, dense[mask != 0]


def _sparse_blockwise(values: Mapping[str, Any]) -> tuple[Array, Array]:
    mask, offset = values["data_mask"], values.get("offset")
    data = _scattered(mask, values["nonzero_data"])
    blocks = None if offset is None else _blocks(offset, data.shape)
    dense = _shifted(data, _blocks(values["scale"], data.shape), blocks)
    return mask, dense[mask != 0]


_DECODERS: Mapping[str, Callable[[Mapping[str, Any]], Array | tuple[Array, ...]]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _table,
    "constexpr_lut_to_sparse": _sparse_table,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise,
    "constexpr_sparse_to_dense": _dense,
}
