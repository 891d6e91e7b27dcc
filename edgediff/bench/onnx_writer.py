"""Small ONNX models, written without the onnx package, which the library does not install.

Message and field numbers are those of onnx.proto3 (ONNX 1.15).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgediff.protobuf import FIXED32, LENGTH, VARINT, tag

IR_VERSION, OPSET = 10, 21
MICROSOFT = "com.microsoft"
_DTYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_FLOAT, _INT, _INTS = 1, 2, 7  # of AttributeProto.AttributeType

Attribute = int | float | Sequence[int]


class Model:
    """A graph being written: constants and nodes in order, one input and one output of float32."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._count = 0

    def constant(self, value: NDArray[Any]) -> str:
        """Return the name of a new constant."""
        name = self._name("c")
        dims = b"".join(_number(1, extent) for extent in value.shape)
        kind = _number(2, _DTYPES[value.dtype.name])
        self._constants.append(dims + kind + _field(8, name.encode()) + _field(9, value.tobytes()))
        return name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Attribute) -> str:
        """Return the name of a new node's output."""
        name = self._name("v")
        told = b"".join(_field(1, each.encode()) for each in inputs) + _field(2, name.encode())
        told += _field(3, name.encode()) + _field(4, op.encode())
        told += b"".join(_field(5, _attribute(key, value)) for key, value in attributes.items())
        self._nodes.append(told + (_field(7, domain.encode()) if domain else b""))
        return name

    def written(self, inputs: Mapping[str, Sequence[int]], outputs: Mapping[str, Sequence[int]]) -> bytes:
        """Return the model's file; ``inputs`` and ``outputs`` are float32 of these shapes."""
        graph = b"".join(_field(1, node) for node in self._nodes) + _field(2, b"limit")
        graph += b"".join(_field(5, each) for each in self._constants)
        graph += b"".join(_field(11, _port(*each)) for each in inputs.items())
        graph += b"".join(_field(12, _port(*each)) for each in outputs.items())
        opsets = _field(8, _number(2, OPSET)) + _field(8, _field(1, MICROSOFT.encode()) + _number(2, 1))
        return _number(1, IR_VERSION) + _field(7, graph) + opsets

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"


def _port(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_field(1, _number(1, extent)) for extent in shape)
    kind = _field(1, _number(1, _DTYPES["float32"]) + _field(2, dims))
    return _field(1, name.encode()) + _field(2, kind)


def _attribute(name: str, value: Attribute) -> bytes:
    told = _field(1, name.encode())
    if isinstance(value, float):
        return told + bytes([tag(2, FIXED32)]) + struct.pack("<f", value) + _number(20, _FLOAT)
    if isinstance(value, int):
        return told + _number(3, value) + _number(20, _INT)
    return told + b"".join(_number(8, each) for each in value) + _number(20, _INTS)


def _field(number: int, content: bytes) -> bytes:
    return _varint(tag(number, LENGTH)) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(tag(number, VARINT)) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
