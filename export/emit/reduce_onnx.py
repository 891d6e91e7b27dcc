"""How the operations of reduced attention are said in ONNX, over tokens (B, S, C).

The order of tiles is a Gather by indices that are computed from the picture's size: constants where that is
known when the graph is written, and folded to some by a runtime that is told its extents.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from edgediff.export.emit.graph import Node
from edgediff.export.emit.onnx_builder import Builder
from edgediff.export.emit.onnx_lowering import Lowering
from edgediff.export.emit.reduce_sizes import back, order


def lowerings(first: int = 2) -> Mapping[str, Lowering]:
    """The table for pictures whose height is axis ``first``, and whose width is the next."""
    grid = _Grid(first)
    return {
        "arrange": grid.arrange,
        "restore": grid.restore,
        "windows": grid.windows,
        "unwindows": grid.unwindows,
        "pool_tokens": grid.pool,
        "stride_tokens": grid.stride,
    }


class _Grid:
    """Says each operation; the second input is the picture that has the size."""

    def __init__(self, first: int) -> None:
        self._first = first

    def arrange(self, b: Builder, node: Node, x: list[str]) -> str:
        return b.node("Gather", x[0], self._indices(b, node, x[1], False), axis=1)

    def restore(self, b: Builder, node: Node, x: list[str]) -> str:
        return b.node("Gather", x[0], self._indices(b, node, x[1], True), axis=1)

    def windows(self, b: Builder, node: Node, x: list[str]) -> str:
        lengths = [self._length(b, x[1], axis, int(node.attributes["size"])) for axis in (0, 1)]
        places = b.once(("places", *lengths), lambda: b.node("Mul", *lengths))
        shape = b.once(
            ("windows", places, node.output.channels),
            lambda: b.node("Concat", b.integers(-1), places, b.integers(node.output.channels), axis=0),
        )
        return b.node("Reshape", x[0], shape)

    def unwindows(self, b: Builder, node: Node, x: list[str]) -> str:
        batch, ends = b.extent(x[1], 0, 1), b.integers(-1, node.output.channels)
        return b.node(
            "Reshape", x[0], b.once(("batch", batch, ends), lambda: b.node("Concat", batch, ends, axis=0))
        )

    def pool(self, b: Builder, node: Node, x: list[str]) -> str:
        size, channels = int(node.attributes["size"]), node.output.channels
        head = b.integers(0, channels)
        sides = b.extent(x[1], self._first, self._first + 2)
        shape = b.once(("picture", head, sides), lambda: b.node("Concat", head, sides, axis=0))
        picture = b.node("Reshape", b.node("Transpose", x[0], perm=[0, 2, 1]), shape)
        pooled = b.node(
            "AveragePool",
            picture,
            kernel_shape=[size] * 2,
            strides=[size] * 2,
            ceil_mode=1,
            count_include_pad=0,
        )
        flat = b.node("Reshape", pooled, b.integers(0, channels, -1))
        return b.node("Transpose", flat, perm=[0, 2, 1])

    def stride(self, b: Builder, node: Node, x: list[str]) -> str:
        size, channels = int(node.attributes["size"]), node.output.channels
        sides = b.extent(x[1], self._first, self._first + 2)
        shape = b.once(
            ("rows", sides, channels),
            lambda: b.node("Concat", b.integers(0), sides, b.integers(channels), axis=0),
        )
        ends = b.integers(*[np.iinfo(np.int64).max] * 2)
        picture = b.node("Reshape", x[0], shape)
        kept = b.node("Slice", picture, b.integers(0, 0), ends, b.integers(1, 2), b.integers(size, size))
        return b.node("Reshape", kept, b.integers(0, -1, channels))

    def _indices(self, b: Builder, node: Node, picture: str, back_again: bool) -> str:
        size, shifted = int(node.attributes["size"]), bool(node.attributes["shifted"])
        known = b.known(picture)
        if known is not None:
            height, width = known[self._first : self._first + 2]
            return b.constant((back if back_again else order)(height, width, size, shifted))
        made = self._places_back if back_again else self._places
        return b.once(("tiles", picture, size, shifted, back_again), lambda: made(b, picture, size, shifted))

    def _places(self, b: Builder, picture: str, size: int, shifted: bool) -> str:
        """The sum of a row's and a column's part, as :func:`order` has it."""
        rows, columns = (self._along(b, picture, axis, size, shifted) for axis in (0, 1))
        rows = b.node("Mul", rows, self._side(b, picture, 1))
        total = b.node(
            "Add", b.node("Unsqueeze", rows, b.integers(1, 3)), b.node("Unsqueeze", columns, b.integers(0, 2))
        )
        return b.node("Reshape", total, b.integers(-1))

    def _along(self, b: Builder, picture: str, axis: int, size: int, shifted: bool) -> str:
        """(tiles, places of a tile) along one side."""
        length = self._length(b, picture, axis, size)
        starts = b.node("Unsqueeze", self._starts(b, picture, axis, size), b.integers(1))
        places = b.node("Add", starts, self._range(b, length))
        return self._moved(b, places, picture, axis, size, 1) if shifted else places

    def _places_back(self, b: Builder, picture: str, size: int, shifted: bool) -> str:
        """As :func:`back` has it: of the tiles that hold a place, the first."""
        height, width = (self._length(b, picture, axis, size) for axis in (0, 1))
        tile = b.node("Mul", height, width)
        parts = []
        for axis, whole, step in (
            (0, b.node("Mul", tile, b.integers(size)), width),
            (1, tile, b.integers(1)),
        ):
            places = self._range(b, self._side(b, picture, axis))
            if shifted:
                places = self._moved(b, places, picture, axis, size, -1)
            starts, length = self._starts(b, picture, axis, size), (height, width)[axis]
            over = b.node(
                "LessOrEqual", b.node("Add", starts, length), b.node("Unsqueeze", places, b.integers(1))
            )
            which = b.node("ReduceSum", b.node("Cast", over, to=TensorProto.INT64), b.integers(1), keepdims=0)
            within = b.node("Sub", places, self._begin(b, which, picture, axis, size))
            parts.append(b.node("Add", b.node("Mul", which, whole), b.node("Mul", within, step)))
        rows, columns = (b.node("Unsqueeze", part, b.integers(1 - axis)) for axis, part in enumerate(parts))
        return b.node("Reshape", b.node("Add", rows, columns), b.integers(-1))

    def _moved(self, b: Builder, places: str, picture: str, axis: int, size: int, sign: int) -> str:
        """Half a tile further on, or back, around the edge."""
        side = self._side(b, picture, axis)
        half = b.node("Div", self._length(b, picture, axis, size), b.integers(2))
        by = half if sign > 0 else b.node("Sub", side, half)
        return b.node("Mod", b.node("Add", places, by), side)

    def _starts(self, b: Builder, picture: str, axis: int, size: int) -> str:
        return b.once(
            ("starts", picture, axis, size),
            lambda: self._begin(b, b.integers(*range(size)), picture, axis, size),
        )

    def _begin(self, b: Builder, tiles: str, picture: str, axis: int, size: int) -> str:
        """Where tiles of these numbers begin."""
        spare = b.node("Sub", self._side(b, picture, axis), self._length(b, picture, axis, size))
        return b.node("Div", b.node("Mul", tiles, spare), b.integers(size - 1))

    def _length(self, b: Builder, picture: str, axis: int, size: int) -> str:
        """Places of a tile along one side."""
        side = self._side(b, picture, axis)
        return b.once(
            ("length", side, size),
            lambda: b.node("Div", b.node("Add", side, b.integers(size - 1)), b.integers(size)),
        )

    def _side(self, b: Builder, picture: str, axis: int) -> str:
        return b.extent(picture, self._first + axis, self._first + axis + 1)

    def _range(self, b: Builder, count: str) -> str:
        zero, one = (b.constant(np.array(number, np.int64)) for number in (0, 1))
        scalar = b.once(("scalar", count), lambda: b.node("Squeeze", count))
        return b.node("Range", zero, scalar, one)


REDUCED = lowerings()
"""For pictures (B, C, H, W)."""
