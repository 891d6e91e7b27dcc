"""How the operations of reduced attention are said in MIL, over tokens (B, C, 1, S) of a known grid.

Tiles are slices put one after the other: the Neural Engine gathers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

from edgediff.errors import UnsupportedError
from edgediff.export.emit.graph import Node
from edgediff.export.emit.mil_builder import Builder, Var
from edgediff.export.emit.reduce_sizes import starts


def _sides(b: Builder, node: Node) -> tuple[int, int]:
    """Height and width of the picture that gives the size."""
    found = set(b.places(node.inputs[1]))
    if len(found) > 1:
        raise UnsupportedError(
            f"{node.scope}: reduced attention asks for one size, and the program has {len(found)}. Export "
            "one size for each package, or leave the attention whole."
        )
    height, width = found.pop()
    return height, width


def _picture(b: Builder, x: Var, height: int, width: int) -> Var:
    return b.reshape(x, x.shape[0], x.shape[1], height, width)


def _tokens(b: Builder, x: Var) -> Var:
    return b.reshape(x, x.shape[0], x.shape[1], 1, -1)


def _part(b: Builder, x: Var, axis: int, begin: int, length: int) -> Var:
    if begin == 0 and length == x.shape[axis]:
        return x
    first, size = [0] * 4, [-1] * 4
    first[axis], size[axis] = begin, length
    return b.op("slice_by_size", x=x, begin=first, size=size)


def _turned(b: Builder, x: Var, axis: int, by: int) -> Var:
    """What stood at ``by`` stands first, and what stood before it last."""
    whole = int(x.shape[axis])
    if by % whole == 0:
        return x
    return b.op(
        "concat",
        values=[_part(b, x, axis, by, whole - by), _part(b, x, axis, 0, by)],
        axis=axis,
    )


def _arrange(b: Builder, node: Node, x: list[Var]) -> Var:
    sides, size = _sides(b, node), int(node.attributes["size"])
    picture = _picture(b, x[0], *sides)
    lengths = [ceil(side / size) for side in sides]
    if node.attributes["shifted"]:
        for axis in (0, 1):
            picture = _turned(b, picture, 2 + axis, lengths[axis] // 2)
    tiles = []
    for top in starts(sides[0], size):
        row = _part(b, picture, 2, int(top), lengths[0])
        tiles += [_tokens(b, _part(b, row, 3, int(left), lengths[1])) for left in starts(sides[1], size)]
    return b.op("concat", values=tiles, axis=3)


def _restore(b: Builder, node: Node, x: list[Var]) -> Var:
    sides, size = _sides(b, node), int(node.attributes["size"])
    lengths = [ceil(side / size) for side in sides]
    places = lengths[0] * lengths[1]
    rows = []
    for i, rows_of in enumerate(_new(sides[0], size)):
        row = []
        for j, columns_of in enumerate(_new(sides[1], size)):
            tile = _part(b, x[0], 3, (i * size + j) * places, places)
            part = _part(b, _picture(b, tile, lengths[0], lengths[1]), 2, *rows_of)
            row.append(_part(b, part, 3, *columns_of))
        rows.append(b.op("concat", values=row, axis=3))
    picture = b.op("concat", values=rows, axis=2)
    if node.attributes["shifted"]:
        for axis in (0, 1):
            picture = _turned(b, picture, 2 + axis, sides[axis] - lengths[axis] // 2)
    return _tokens(b, picture)


def _new(side: int, size: int) -> list[tuple[int, int]]:
    """Begin and length of what each tile has that no tile before it has; every tile has some.

    Raises:
        UnsupportedError: the side is shorter than there are tiles.
    """
    length, done, found = ceil(side / size), 0, []
    for start in starts(side, size):
        begin = done - int(start)
        if begin >= length:
            raise UnsupportedError(f"{size} tiles along a side of {side}: export without tiles there.")
        found.append((begin, length - begin))
        done = int(start) + length
    return found


def _windows(b: Builder, node: Node, x: list[Var]) -> Var:
    count = int(node.attributes["size"]) ** 2
    batch, channels, _, length = b.fixed(x[0])
    apart = b.reshape(x[0], batch, channels, count, length // count)
    turned = b.op("transpose", x=apart, perm=[0, 2, 1, 3])
    return b.reshape(turned, batch * count, channels, 1, length // count)


def _unwindows(b: Builder, node: Node, x: list[Var]) -> Var:
    count = int(node.attributes["size"]) ** 2
    rows, channels, _, length = b.fixed(x[0])
    apart = b.reshape(x[0], rows // count, count, channels, length)
    turned = b.op("transpose", x=apart, perm=[0, 2, 1, 3])
    return b.reshape(turned, rows // count, channels, 1, count * length)


def _pool(b: Builder, node: Node, x: list[Var]) -> Var:
    (height, width), size = _sides(b, node), int(node.attributes["size"])
    pad = [0, -height % size, 0, -width % size]
    padding = {"pad_type": "custom", "pad": pad} if any(pad) else {"pad_type": "valid"}
    pooled = b.op(
        "avg_pool",
        x=_picture(b, x[0], height, width),
        kernel_sizes=[size, size],
        strides=[size, size],
        exclude_padding_from_average=True,
        **padding,
    )
    return _tokens(b, pooled)


def _stride(b: Builder, node: Node, x: list[Var]) -> Var:
    (height, width), size = _sides(b, node), int(node.attributes["size"])
    picture = _picture(b, x[0], height, width)
    every = b.op(
        "slice_by_index",
        x=picture,
        begin=[0, 0, 0, 0],
        end=[0, 0, height, width],
        stride=[1, 1, size, size],
        end_mask=[True, True, False, False],
    )
    return _tokens(b, every)


REDUCED: Mapping[str, Callable[[Builder, Node, list[Var]], Var]] = {
    "arrange": _arrange,
    "restore": _restore,
    "windows": _windows,
    "unwindows": _unwindows,
    "pool_tokens": _pool,
    "stride_tokens": _stride,
}
