"""A few bytes of graph that ask for gigabytes: refused where constants alone prove the size of a result.

What the inputs of a call decide cannot be known here: a hostile graph may still ask for much memory when it
runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from edgediff.onnx_tensors import shown
from edgediff.protobuf import Fault

MAX_FOLDED = 1 << 26  # elements that a runtime computes at load and keeps: 256 MiB of float32
MAX_RESULT = 1 << 31  # elements of one tensor of a run


class Node:
    """What a rule may ask about a node: numbers of its constant inputs and of its attributes."""

    def __init__(
        self,
        inputs: Sequence[bytes],
        numbers: Callable[[bytes], Sequence[float] | None],
        attribute: Callable[[bytes], Sequence[float] | None],
        elements: Callable[[bytes], int | None],
    ) -> None:
        self._inputs = inputs
        self._numbers = numbers
        self.attribute = attribute
        self._elements = elements

    def numbers(self, place: int) -> Sequence[float] | None:
        """Return the numbers of the input at ``place`` if they stand in the graph."""
        given = place < len(self._inputs) and self._inputs[place]
        return self._numbers(self._inputs[place]) if given else None

    def elements(self) -> int | None:
        """Return how many elements the first input has, if it is a constant."""
        return self._elements(self._inputs[0]) if self._inputs else None


def check(kind: bytes, node: Node, name: bytes) -> None:
    """Refuse a node whose result is larger than any model needs.

    Raises:
        Fault: constants prove it.
    """
    rule = _RULES.get(kind)
    if rule is None:
        return
    least, folded = rule(node)
    most = MAX_FOLDED if folded else MAX_RESULT
    if least > most:
        raise Fault(
            f"the node {shown(name)} ({kind.decode()}) makes a tensor of {_said(least)} elements, and "
            f"at most {most} are allowed"
        )


def _said(elements: float) -> str:
    return f"{elements:.0f}" if elements < 1e15 else "more than 1e15"


# Each rule returns how many elements the result has at least, and whether it is computed at load.
Rule = Callable[[Node], tuple[float, bool]]


def _product(dims: Sequence[float] | None) -> float:
    """Return the least size that ``dims`` prove; what is unknown, copied or inferred counts as 1."""
    size = 1.0
    for dim in dims or ():
        size *= dim if dim > 1 or dim == 0 else 1.0
    return size


def _constant_of_shape(node: Node) -> tuple[float, bool]:
    return _product(node.numbers(0)), True


def _expand(node: Node) -> tuple[float, bool]:
    return _product(node.numbers(1)), node.elements() is not None


def _tile(node: Node) -> tuple[float, bool]:
    elements = node.elements()
    return _product(node.numbers(1)) * (1 if elements is None else elements), elements is not None


def _range(node: Node) -> tuple[float, bool]:
    found = [node.numbers(place) for place in range(3)]
    if not all(found):
        return 0, False
    start, limit, delta = (values[0] for values in found if values)
    if delta == 0 or not all(map(math.isfinite, (start, limit, delta))):
        raise Fault("a Range has no end")
    return max(0.0, (limit - start) / delta), True


def _pad(node: Node) -> tuple[float, bool]:
    pads = node.numbers(1) or node.attribute(b"pads") or ()
    half = len(pads) // 2
    # An axis of an unknown size is at least as long as what is put before and behind it.
    grown = [max(before + after, 1) for before, after in zip(pads[:half], pads[half:], strict=False)]
    return _product(grown), node.elements() is not None


def _resize(node: Node) -> tuple[float, bool]:
    elements = node.elements()
    factor = math.prod(max(s, 0.0) for s in node.numbers(2) or (0.0,)) * (elements or 1)
    return max(factor, _product(node.numbers(3)) if node.numbers(3) else 0.0), elements is not None


def _upsample(node: Node) -> tuple[float, bool]:
    elements = node.elements()
    scales = node.numbers(1) or node.attribute(b"scales") or (0.0,)
    return math.prod(max(s, 0.0) for s in scales) * (elements or 1), elements is not None


def _from_shape(node: Node) -> tuple[float, bool]:
    return _product(node.attribute(b"shape")), False


def _one_hot(node: Node) -> tuple[float, bool]:
    return _product((node.numbers(1) or (0.0,))[:1]), False


_RULES: Mapping[bytes, Rule] = {
    b"ConstantOfShape": _constant_of_shape,
    b"Expand": _expand,
    b"Tile": _tile,
    b"Range": _range,
    b"Pad": _pad,
    b"Resize": _resize,
    b"Upsample": _upsample,
    b"RandomNormal": _from_shape,
    b"RandomUniform": _from_shape,
    b"OneHot": _one_hot,
}
SIZED = frozenset(_RULES)
