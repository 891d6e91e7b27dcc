"""What a Core ML program consists of: operations by type, what they compute in, how weights are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from edgediff.mil_constants import is_compressed
from edgediff.mil_program import BITS, Blob, Constant, Function, Operation, TypeOf

_FLOATS = ("float16", "float32", "float64")


class Stored(NamedTuple):
    """Weights that are stored alike: how many arrays, and of how many numbers in all."""

    arrays: int
    elements: int


class Summary(NamedTuple):
    """A function's operations by type and by what they make; and its weights by form, ``palette-6`` say.

    Constants are in neither count. Weights are the arrays that lie in the file of weights.
    """

    operations: Mapping[str, int]
    computes: Mapping[str, int]
    weights: Mapping[str, Stored]

    @property
    def elements(self) -> int:
        """Numbers in all weights."""
        return sum(stored.elements for stored in self.weights.values())


def summary(function: Function) -> Summary:
    """Return what ``function`` consists of."""
    kinds: Counter[str] = Counter()
    computes: Counter[str] = Counter()
    made: dict[str, tuple[Operation, TypeOf]] = {}
    read: dict[str, None] = {}  # constants that an operation reads, in their order
    for operation in function.block.walk():
        if operation.type == "const" or is_compressed(operation):
            made.update((output.name, (operation, output.type)) for output in operation.outputs)
            continue
        kinds[operation.type] += 1
        for output in operation.outputs:
            computes[output.type.dtype] += 1
        for given in operation.inputs.values():
            read.update((name, None) for name in given if isinstance(name, str) and name in made)
    weights: dict[str, Stored] = {}
    for name in read:
        operation, kind = made[name]
        form = _form(operation, made)
        if form is not None:
            before = weights.get(form, Stored(0, 0))
            elements = prod(size or 0 for size in kind.shape)
            weights[form] = Stored(before.arrays + 1, before.elements + elements)
    return Summary(dict(kinds.most_common()), dict(computes.most_common()), weights)


def _form(operation: Operation, made: Mapping[str, tuple[Operation, TypeOf]]) -> str | None:
    """Return how a weight is stored; None for a constant that stands in the program."""
    if operation.type == "const":
        held = operation.attributes.get("val")
        return held.type.dtype if held is not None and isinstance(held.value, Blob) else None

    def inner(name: str) -> tuple[Operation | None, TypeOf | None]:
        argument = operation.argument(name)
        if isinstance(argument, Constant):
            return None, argument.type
        source, kind = made.get(argument or "", (None, None))
        return (source if source is not None and is_compressed(source) else None), kind

    data, kind = inner(_DATA.get(operation.type, ""))
    if operation.type.startswith("constexpr_lut_"):
        scaled, table = inner("lut")
        return _palette(kind, table) + (_scaled(scaled) if scaled is not None else "")
    if operation.type == "constexpr_sparse_to_dense":
        return f"sparse {_form(data, made) if data is not None else _name(kind)}"
    if "shift_scale" in operation.type and data is not None:
        return f"{_form(data, made)} with scales"
    blocks = inner("scale")[1]
    per_block = operation.type.endswith("shift_scale") and _axes(blocks) > 1
    return f"{_name(kind)} per block" if per_block else _name(kind)


_DATA = {
    "constexpr_affine_dequantize": "quantized_data",
    "constexpr_blockwise_shift_scale": "data",
    "constexpr_cast": "source_val",
    "constexpr_lut_to_dense": "indices",
    "constexpr_lut_to_sparse": "indices_nonzero_data",
    "constexpr_sparse_blockwise_shift_scale": "nonzero_data",
    "constexpr_sparse_to_dense": "nonzero_data",
}


def _name(kind: TypeOf | None) -> str:
    return "unknown" if kind is None else kind.dtype


def _axes(scales: TypeOf | None) -> int:
    """Return along how many axes there is more than one scale: one for channels, two for blocks of them."""
    return 0 if scales is None else sum((size or 0) > 1 for size in scales.shape)


def _scaled(table: Operation) -> str:
    """Return how a table itself is stored, which is of integers with a scale, or has a scale per channel."""
    data = table.argument("data")
    dtype = data.type.dtype if isinstance(data, Constant) else "float16"
    return " with scales" if dtype in _FLOATS else f" of {dtype}"


def _palette(indices: TypeOf | None, table: TypeOf | None) -> str:
    if indices is None or table is None or not table.shape:
        return "palette"
    if len(table.shape) == 1:  # iOS 16: the indices are bytes that hold several
        return f"palette-{(table.shape[0] or 1).bit_length() - 1}"
    notes = [" of vectors"] if (table.shape[-1] or 1) > 1 else []
    notes += [" by groups"] if prod(size or 1 for size in table.shape[:-2]) > 1 else []
    notes += [f" of {table.dtype}"] if table.dtype not in _FLOATS else []
    return f"palette-{BITS.get(indices.dtype, 0)}{''.join(notes)}"
