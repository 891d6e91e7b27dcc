"""What a Core ML package's program is: functions of blocks of operations, as MIL, its language, has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

# Bits of an element. Types of less than a byte are packed from the least significant bit on.
BITS = {
    "bool": 8, "float16": 16, "float32": 32, "float64": 64,
    "int4": 4, "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6,
    "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64,
}  # fmt: skip


class TypeOf(NamedTuple):
    """An element type and a shape; None is a size that is known only when the program runs.

    ``dtype`` is a key of ``BITS``, ``"string"``, or ``"list[...]"`` of one of these, whose shape is its
    length.
    """

    dtype: str
    shape: tuple[int | None, ...]


class Named(NamedTuple):
    """A value that is given to a function or made by an operation."""

    name: str
    type: TypeOf


class Blob(NamedTuple):
    """Where a constant lies: the offset of its record in the package's file of weights."""

    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that stands in the program.

    ``value`` is a read-only array for numbers and truth values (of rank 0 for a scalar; elements of less
    than a byte are uint8 or int8), a str for a scalar string, a tuple for a list or a tensor of strings, or
    the place in the file of weights.
    """

    type: TypeOf
    value: NDArray[Any] | str | tuple[Any, ...] | Blob


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. An input has one or more arguments, each the name of a value or a constant."""

    type: str
    inputs: Mapping[str, tuple[str | Constant, ...]]
    outputs: tuple[Named, ...]
    attributes: Mapping[str, Constant] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()

    def argument(self, name: str) -> str | Constant | None:
        """The first argument of an input, or the attribute of that name, which older programs have."""
        given = self.inputs.get(name, ())
        return given[0] if given else self.attributes.get(name)

    def constants(self) -> Iterator[tuple[str, Constant]]:
        """Yield the constants that the operation holds itself, by the name of the input or attribute."""
        yield from self.attributes.items()
        for name, given in self.inputs.items():
            for argument in given:
                if isinstance(argument, Constant):
                    yield name, argument


@dataclass(frozen=True, slots=True)
class Block:
    """Operations in order: each reads only what stands before it, inside or around the block."""

    inputs: tuple[Named, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]

    def walk(self) -> Iterator[Operation]:
        """Yield all operations, those of inner blocks after the operation that holds them."""
        for operation in self.operations:
            yield operation
            for block in operation.blocks:
                yield from block.walk()


@dataclass(frozen=True, slots=True)
class Function:
    """What a package computes. ``opset`` names the set of operations it is written in, ``CoreML7`` say."""

    inputs: tuple[Named, ...]
    opset: str
    block: Block


@dataclass(frozen=True, slots=True)
class Feature:
    """An input or output as the package declares it to applications.

    ``shapes`` are all shapes of an input with several, the default among them; ``ranges`` the least and
    greatest size of each axis (-1: unbounded) of one that takes all between. ``dtype`` is ``"image"`` for a
    picture, whose shape is (height, width).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...] = ()
    optional: bool = False
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Spec:
    """A package's model: the version of the format, what applications see, and the program."""

    version: int
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    functions: Mapping[str, Function]
    metadata: Mapping[str, str]
    default: str = "main"

    @property
    def main(self) -> Function:
        """The function that is run unless another is asked for."""
        return self.functions[self.default]
