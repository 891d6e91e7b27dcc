"""Core ML packages written byte by byte, so that each part of them can be wrong in one way."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

FLOAT16, FLOAT32, INT32, STRING, UINT4 = 10, 11, 23, 2, 35
ROOT = "com.apple.CoreML"
WEIGHTS = b"@model_path/weights/weight.bin"


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    value &= (1 << 64) - 1
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, content: bytes | str) -> bytes:
    """A field with a length: a text, or a message."""
    held = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(held)) + held


def entry(field: int, key: str, value: bytes) -> bytes:
    return part(field, part(1, key) + part(2, value))


def tensor(dtype: int, *shape: int) -> bytes:
    """A ValueType."""
    dims = b"".join(part(3, part(1, number(1, size))) for size in shape)
    return part(1, number(1, dtype) + number(2, len(shape)) + dims)


def value(kind: bytes, held: bytes) -> bytes:
    """A Value whose tensor has the elements ``held``."""
    return part(2, kind) + part(3, part(1, held))


def floats(*numbers: float) -> bytes:
    return part(1, part(1, struct.pack(f"<{len(numbers)}f", *numbers)))


def ints(*numbers: int) -> bytes:
    return part(2, part(1, b"".join(map(varint, numbers))))


def strings(*texts: str) -> bytes:
    return part(4, b"".join(part(1, text) for text in texts))


def blob(kind: bytes, offset: int, file: bytes = WEIGHTS) -> bytes:
    """A Value that lies in the file of weights."""
    return part(2, kind) + part(5, part(1, file) + number(2, offset))


def named(name: str, kind: bytes) -> bytes:
    return part(1, name) + part(2, kind)


def operation(
    kind: str, inputs: dict[str, bytes | str], output: bytes, attributes: bytes = b"", blocks: bytes = b""
) -> bytes:
    """An Operation; an input is the name of a value, or a Value."""
    found = part(1, kind)
    for name, given in inputs.items():
        binding = part(1, given) if isinstance(given, str) else part(2, given)
        found += entry(2, name, part(1, binding))
    return found + part(3, output) + blocks + attributes


def const(name: str, kind: bytes, val: bytes) -> bytes:
    return operation("const", {}, named(name, kind), entry(5, "val", val))


X = tensor(FLOAT32, 1, 4)
W = const("w", X, blob(X, 64))
SCALE = const("s", tensor(FLOAT32), value(tensor(FLOAT32), floats(0.5)))
MUL = operation("mul", {"x": "x", "y": "w"}, named("z", X))
LAST = operation("mul", {"x": "z", "y": "s"}, named("y", X))


def function(
    *operations: bytes, inputs: bytes = part(1, named("x", X)), outputs: bytes = part(2, "y")
) -> bytes:
    block = outputs + b"".join(part(3, one) for one in operations)
    return inputs + part(2, "CoreML7") + entry(3, "CoreML7", block)


def feature(name: str, kind: int = 65568, shape: tuple[int, ...] = (1, 4), more: bytes = b"") -> bytes:
    sizes = part(1, b"".join(map(varint, shape)))
    return part(1, name) + part(3, part(5, sizes + number(2, kind) + more))


DESCRIPTION = (
    part(1, feature("x")) + part(10, feature("y")) + part(100, part(3, "me") + entry(100, "k", b"v"))
)


def model(main: bytes | None = None, description: bytes = DESCRIPTION, version: int = 8) -> bytes:
    """A model file: y = x * w * 0.5 unless told otherwise."""
    main = function(W, SCALE, MUL, LAST) if main is None else main
    program = number(1, 1) + entry(2, "main", main)
    return number(1, version) + part(2, description) + part(502, program)


def record(
    kind: int, size: int, offset: int, padding: int = 0, sentinel: int = 0xDEADBEEF, version: int = 2
) -> bytes:
    """A file of weights up to the numbers of its only array, which the record describes."""
    head = struct.pack("<II", 1, version).ljust(64, b"\0")
    return head + struct.pack("<IIQQQ", sentinel, kind, size, offset, padding).ljust(64, b"\0")


NUMBERS = np.array([[1, 2, 3, 4]], np.float32)
BLOB = record(2, 16, 128) + NUMBERS.tobytes()


def write(
    folder: Path, data: bytes | None = None, weights: bytes | None = BLOB, manifest: object = None
) -> Path:
    """Write a package into ``folder`` and return its path."""
    package = folder / "m.mlpackage"
    inner = package / "Data" / ROOT
    (inner / "weights").mkdir(parents=True)
    (inner / "model.mlmodel").write_bytes(model() if data is None else data)
    if weights is not None:
        (inner / "weights" / "weight.bin").write_bytes(weights)
    if manifest is None:
        manifest = listing()
    (package / "Manifest.json").write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    return package


def listing(root: str = f"{ROOT}/model.mlmodel", weights: str = f"{ROOT}/weights") -> dict[str, object]:
    """A manifest of a package."""
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            "A": {"author": "com.apple.CoreML", "description": "a", "name": "model.mlmodel", "path": root},
            "B": {"author": "com.apple.CoreML", "description": "b", "name": "weights", "path": weights},
        },
        "rootModelIdentifier": "A",
    }
