"""A small graph of what a diffusion network does most, to find out which device does it fastest.

It holds, in a U-Net's proportions, two convolutions of 3x3 over 32x32 places of 320 channels, two linear
layers with four times the width between them, and self-attention of 1024 tokens in 8 heads: 6.8 GFLOP, in
float32, or with the layers' weights and inputs quantized to bytes (``int8``). The bytes of the ONNX model are
written here, since the library installs no onnx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgediff.protobuf import LENGTH, VARINT, tag

SIDE, CHANNELS, HEADS, WIDER = 32, 320, 8, 4
INPUT, OUTPUT = "sample", "out_sample"
SHAPE = (1, CHANNELS, SIDE, SIDE)
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_STEP = np.float32(1 / 64)  # of quantized activations, which are then within -2 and 2


def block(integers: bool, symmetric: bool) -> bytes:
    """Return the model. ``symmetric`` has signed activations, as OpenVINO wants them, else unsigned ones."""
    made = _Writer(integers, symmetric)
    rng = np.random.Generator(np.random.PCG64(0))
    tokens, head = SIDE * SIDE, CHANNELS // HEADS
    x = INPUT
    for i in range(2):
        x = made.layer("Conv", x, _weights(rng, (CHANNELS, CHANNELS, 3, 3)), {"pads": [1, 1, 1, 1]}, f"c{i}")
    flat = made.node("Reshape", [x, made.constant(np.array([1, CHANNELS, tokens]))])
    rows = made.node("Transpose", [flat], {"perm": [0, 2, 1]})
    wide = made.layer("MatMul", rows, _weights(rng, (CHANNELS, WIDER * CHANNELS)), {}, "up")
    rows = made.layer("MatMul", wide, _weights(rng, (WIDER * CHANNELS, CHANNELS)), {}, "down")
    split = made.node("Reshape", [rows, made.constant(np.array([1, tokens, HEADS, head]))])
    queries = made.node("Transpose", [split], {"perm": [0, 2, 1, 3]})
    keys = made.node("Transpose", [split], {"perm": [0, 2, 3, 1]})
    scaled = made.node("Mul", [queries, made.constant(np.float32(head**-0.5))])
    weights = made.node("Softmax", [made.node("MatMul", [scaled, keys])], {"axis": -1})
    mixed = made.node("MatMul", [weights, queries])
    rows = made.node("Reshape", [made.node("Transpose", [mixed], {"perm": [0, 2, 1, 3]}),
                                 made.constant(np.array([1, tokens, CHANNELS]))])  # fmt: skip
    made.node("Transpose", [rows], {"perm": [0, 2, 1]}, OUTPUT)
    return made.model({INPUT: SHAPE}, {OUTPUT: (1, CHANNELS, tokens)})


def _weights(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float32]:
    fan = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
    few = rng.standard_normal(4093, np.float32) / np.float32(fan**0.5)
    return np.resize(few, tuple(shape))  # the same ones over and over: as good for a timing, sooner made


class _Writer:
    def __init__(self, integers: bool, symmetric: bool) -> None:
        self._integers, self._kind = integers, "int8" if symmetric else "uint8"
        self._zero = 0 if symmetric else 128
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        attributes: Mapping[str, int | list[int]] | None = None,
        output: str | None = None,
    ) -> str:
        """Add a node and return its output's name."""
        name = output or f"v{len(self._nodes)}"
        content = b"".join(_field(1, each.encode()) for each in inputs) + _field(2, name.encode())
        content += _field(4, operator.encode())
        for key, value in (attributes or {}).items():
            numbers = value if isinstance(value, list) else [value]
            listed = isinstance(value, list)
            said = b"".join(_number(8 if listed else 3, each) for each in numbers)
            content += _field(5, _field(1, key.encode()) + said + _number(20, 7 if listed else 2))
        self._nodes.append(_field(1, content))
        return name

    def constant(self, array: NDArray[np.generic] | np.generic) -> str:
        """Add an initializer and return its name."""
        value = np.asarray(array)
        name = f"k{len(self._constants)}"
        content = b"".join(_number(1, extent) for extent in value.shape)
        content += _number(2, _TYPES[value.dtype.name]) + _field(8, name.encode())
        self._constants.append(_field(5, content + _field(9, value.tobytes())))
        return name

    def layer(
        self,
        operator: str,
        x: str,
        weights: NDArray[np.float32],
        attributes: Mapping[str, list[int]],
        name: str,
    ) -> str:
        """Add a layer whose output is kept within bounds; both sides are quantized where bytes are asked."""
        if not self._integers:
            return self.node(operator, [x, self.constant(weights)], attributes, name)
        step = np.float32(np.abs(weights).max() / 127)
        stored = np.clip(np.round(weights / step), -127, 127).astype(np.int8)
        scale = [self.constant(stored), self.constant(step), self.constant(np.int8(0))]
        whole = self.node("DequantizeLinear", scale)
        made = self.node(operator, [self._rounded(x), whole], attributes, name)
        return self._rounded(made)

    def _rounded(self, x: str) -> str:
        """Through bytes and back."""
        scale = [self.constant(_STEP), self.constant(np.dtype(self._kind).type(self._zero))]
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, *scale]), *scale])

    def model(self, inputs: Mapping[str, Sequence[int]], outputs: Mapping[str, Sequence[int]]) -> bytes:
        graph = b"".join(self._nodes) + _field(2, b"probe") + b"".join(self._constants)
        graph += b"".join(_field(11, _port(name, shape)) for name, shape in inputs.items())
        graph += b"".join(_field(12, _port(name, shape)) for name, shape in outputs.items())
        return _number(1, 10) + _field(7, graph) + _field(8, _number(2, 19))


def _port(name: str, shape: Sequence[int]) -> bytes:
    extents = b"".join(_field(1, _number(1, extent)) for extent in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, _TYPES["float32"]) + _field(2, extents)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(tag(number, LENGTH)) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(tag(number, VARINT)) + _varint(value & (1 << 64) - 1)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
