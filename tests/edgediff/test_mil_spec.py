"""What a package's model file says, against coremltools, and files that must not get further."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff.errors import BundleError, EdgediffError, UnsupportedError
from edgediff.mil_program import Blob, Constant, Feature, Named, TypeOf
from edgediff.mil_scan import scan
from edgediff.mil_spec import parse_spec, read_spec
from edgediff.mlpackage import open_package
from tests.edgediff import mil_bytes as mil

ROW = TypeOf("float32", (1, 4))
SOME = mil.tensor(mil.INT32, 3)


def parsed(data: bytes) -> Any:
    return parse_spec(data, "m.mlmodel")


def test_what_they_all_start_from_is_read(tmp_path: Path) -> None:
    package = open_package(mil.write(tmp_path))
    spec = scan(package)
    assert spec == read_spec(package.model)
    assert (spec.version, spec.default, dict(spec.metadata)) == (8, "main", {"author": "me", "k": "v"})
    assert spec.inputs == (Feature("x", "float32", (1, 4)),)
    assert spec.outputs == (Feature("y", "float32", (1, 4)),)
    main = spec.main
    assert (main.opset, main.inputs, main.block.outputs) == ("CoreML7", (Named("x", ROW),), ("y",))
    assert [(o.type, o.outputs[0].name) for o in main.block.walk()] == [
        ("const", "w"), ("const", "s"), ("mul", "z"), ("mul", "y"),
    ]  # fmt: skip
    w, s, z, _ = main.block.operations
    assert w.attributes["val"] == Constant(ROW, Blob(mil.WEIGHTS.decode(), 64))
    assert s.attributes["val"].value == np.float32(0.5) and s.attributes["val"].type.shape == ()
    assert dict(z.inputs) == {"x": ("x",), "y": ("w",)}


def test_the_same_bytes_mean_the_same_to_coremltools(tmp_path: Path) -> None:
    ct = pytest.importorskip("coremltools")
    found = ct.models.MLModel(str(mil.write(tmp_path)), skip_model_load=True).get_spec()
    block = found.mlProgram.functions["main"].block_specializations["CoreML7"]
    assert [(o.type, o.outputs[0].name) for o in block.operations] == [
        ("const", "w"), ("const", "s"), ("mul", "z"), ("mul", "y"),
    ]  # fmt: skip
    assert block.operations[0].attributes["val"].blobFileValue.offset == 64
    assert list(found.description.input[0].type.multiArrayType.shape) == [1, 4]


def test_features_with_several_shapes_and_kinds() -> None:
    sizes = [(1, 4), (1, 6)]
    shapes = b"".join(mil.part(1, mil.part(1, bytes(size))) for size in sizes)
    ranged = b"".join(
        mil.part(1, mil.number(1, low) + mil.number(2, high)) for low, high in ((1, 1), (4, -1))
    )
    image = mil.part(1, "x") + mil.part(3, mil.part(4, mil.number(1, 8) + mil.number(2, 6)))
    for given, expected in (
        (mil.feature("x", more=mil.part(21, shapes)), Feature("x", "float32", (1, 4), tuple(sizes))),
        (
            mil.feature("x", more=mil.part(31, ranged)),
            Feature("x", "float32", (1, 4), ranges=((1, 1), (4, -1))),
        ),
        (image, Feature("x", "image", (6, 8))),
    ):  # fmt: skip
        spec = parsed(mil.model(description=mil.part(1, given) + mil.part(10, mil.feature("y"))))
        assert spec.inputs == (expected,)


@pytest.mark.parametrize(
    ("kind", "held", "expected"),
    [
        (mil.tensor(mil.INT32, 3), mil.ints(1, -2, 300), np.array([1, -2, 300], np.int32)),
        (mil.tensor(mil.INT32, 0), mil.ints(), np.zeros(0, np.int32)),
        (mil.tensor(24, 2), mil.part(5, mil.part(1, mil.varint(-1) + mil.varint(1 << 40))),
         np.array([-1, 1 << 40], np.int64)),
        (mil.tensor(1, 2), mil.part(3, mil.part(1, b"\1\0")), np.array([True, False])),
        (mil.tensor(12), mil.part(6, mil.part(1, np.float64(0.1).tobytes())), np.array(0.1)),
        (mil.tensor(mil.FLOAT16, 2), mil.part(7, mil.part(1, np.array([1, 2], np.float16).tobytes())),
         np.array([1, 2], np.float16)),
        (mil.tensor(mil.UINT4, 3), mil.part(7, mil.part(1, b"\x21\x03")), np.array([1, 2, 3], np.uint8)),
        (mil.tensor(25, 3), mil.part(7, mil.part(1, b"\x2f\x08")), np.array([-1, 2, -8], np.int8)),
        (mil.tensor(39, 3), mil.part(7, mil.part(1, b"\xd1\x01")), np.array([1, 2, 7], np.uint8)),
        (mil.tensor(mil.STRING), mil.strings("same"), "same"),
        (mil.tensor(mil.STRING, 2), mil.strings("a", "b"), ("a", "b")),
    ],
)  # fmt: skip
def test_constants_in_the_program(kind: bytes, held: bytes, expected: Any) -> None:
    one = mil.const("c", kind, mil.value(kind, held))
    value = parsed(mil.model(mil.function(one, mil.W, mil.SCALE, mil.MUL, mil.LAST)))
    found = value.main.block.operations[0].attributes["val"].value
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and not found.flags.writeable
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def test_many_numbers_in_the_program() -> None:
    numbers = random.Random(0).choices(range(-(1 << 31), 1 << 31), k=2000)
    kind = mil.tensor(mil.INT32, 2000)
    one = mil.const("c", kind, mil.value(kind, mil.ints(*numbers)))
    spec = parsed(mil.model(mil.function(one, mil.W, mil.SCALE, mil.MUL, mil.LAST)))
    assert spec.main.block.operations[0].attributes["val"].value.tolist() == numbers


def test_a_list() -> None:
    item = mil.part(1, mil.value(mil.tensor(mil.STRING), mil.strings("a")))
    kind = mil.part(2, mil.part(1, mil.tensor(mil.STRING)) + mil.part(2, mil.part(1, mil.number(1, 2))))
    held = mil.part(2, kind) + mil.part(3, mil.part(3, item + item))
    spec = parsed(mil.model(mil.function(mil.const("c", kind, held), mil.W, mil.SCALE, mil.MUL, mil.LAST)))
    assert spec.main.block.operations[0].attributes["val"] == Constant(
        TypeOf("list[string]", (2,)), ("a", "a")
    )


def nested(depth: int) -> bytes:
    """An operation with blocks in blocks."""
    inner = mil.part(2, "x")
    for level in range(depth):
        one = mil.operation("cond", {}, mil.named(f"v{level}", mil.X), blocks=mil.part(4, inner))
        inner = mil.part(3, one) + mil.part(2, f"v{level}")
    return mil.operation("cond", {}, mil.named("y", mil.X), blocks=mil.part(4, inner))


def test_blocks_in_operations() -> None:
    spec = parsed(mil.model(mil.function(nested(2))))
    assert [o.type for o in spec.main.block.walk()] == ["cond"] * 3


def only(*operations: bytes) -> bytes:
    return mil.model(mil.function(*operations))


def constant(kind: bytes, val: bytes) -> bytes:
    return only(mil.const("c", kind, val), mil.W, mil.SCALE, mil.MUL, mil.LAST)


READS_LATER = (mil.W, mil.SCALE, mil.LAST, mil.MUL)
Y = mil.part(10, mil.feature("y"))
VAST, LONG = mil.tensor(11, *[1 << 20] * 4), mil.tensor(11, 1 << 63, 2)
MANY = mil.tensor(11, *[1] * 100)
TUPLE = mil.part(3, b"")
FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "zeros": (bytes(4096), "no field 0"),
    "a web page": (b"<!doctype html><title>404</title>", "web page"),
    "a zip": (b"PK\x03\x04" + bytes(100), "zip"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "two programs": (mil.model() + mil.part(502, b""), "stands there twice"),
    "no program": (mil.number(1, 8) + mil.part(2, mil.DESCRIPTION), "missing"),
    "no description": (mil.number(1, 8) + mil.part(502, b""), "missing"),
    "a number of more than ten bytes": (mil.model() + b"\xff" * 11, "more than ten bytes"),
    "an unknown field": (mil.model() + mil.part(77, b""), "no Core ML model"),
    "no default function": (
        mil.number(1, 8) + mil.part(2, mil.DESCRIPTION)
        + mil.part(502, mil.entry(2, "f", mil.function(mil.W, mil.SCALE, mil.MUL, mil.LAST))),
        "that it should run",
    ),
    "read before made": (only(*READS_LATER), "nothing before it makes"),
    "read and never made": (only(mil.SCALE, mil.LAST), "nothing before it makes"),
    "made twice": (only(mil.W, mil.W, mil.SCALE, mil.MUL, mil.LAST), "made twice"),
    "an input made again": (
        only(mil.operation("mul", {"x": "x", "y": "x"}, mil.named("x", mil.X))), "made twice"),
    "an output that nothing makes": (only(mil.W), "nothing in it makes"),
    "no output": (mil.model(mil.function(mil.W, outputs=b"")), "returns nothing"),
    "an operation without a type": (only(mil.operation("", {}, mil.named("y", mil.X))), "no operation has"),
    "a type that is no word": (
        only(mil.operation("\x1b[2J", {}, mil.named("y", mil.X))), "no operation has"),
    "blocks that nest too deep": (mil.model(mil.function(nested(50))), "nested deeper"),
    "blocks that nest far too deep": (mil.model(mil.function(nested(2000))), "nested deeper"),
    "an inner name read outside": (
        only(
            mil.operation(
                "cond", {}, mil.named("c", mil.X),
                blocks=mil.part(4, mil.part(3, mil.W) + mil.part(2, "w")),
            ),
            mil.SCALE, mil.MUL, mil.LAST,
        ),
        "nothing before it makes",
    ),
    "other inputs than described": (
        mil.model(mil.function(mil.W, mil.SCALE, mil.MUL, mil.LAST, inputs=mil.part(1, mil.named("x", mil.X))
                  + mil.part(1, mil.named("q", mil.X)))), "different inputs"),
    "an input of another size than described": (
        mil.model(description=mil.part(1, mil.feature("x", shape=(1, 5))) + Y), "different things"),
    "an input of another type than described": (
        mil.model(description=mil.part(1, mil.feature("x", 131104)) + Y), "different things"),
    "a name that is no text": (
        only(mil.operation("mul", {"x": "x", "y": "x"}, mil.part(1, b"\xff\xfe") + mil.part(2, mil.X))),
        "no UTF-8"),
    "a state": (mil.model(description=mil.DESCRIPTION + mil.part(13, mil.feature("s"))), "a state"),
    "an input twice": (mil.model(description=mil.DESCRIPTION + mil.part(1, mil.feature("x"))), "twice"),
    "an input of strings of sizes": (
        mil.model(description=mil.part(1, mil.feature("x", 7)) + Y), "of type 7"),
    "an input with a hundred axes": (
        mil.model(description=mil.part(1, mil.feature("x", shape=(1,) * 100)) + Y),
        "too many axes"),
    "two kinds of operations": (
        mil.model(mil.function(mil.W, mil.SCALE, mil.MUL, mil.LAST) + mil.entry(3, "CoreML8", b"")),
        "several sets"),
    "another file of weights": (
        constant(mil.X, mil.blob(mil.X, 64, b"@model_path/../../etc/passwd")), "only @model_path"),
    "a constant without a value": (constant(mil.X, mil.part(2, mil.X)), "not one value"),
    "a constant without a type": (constant(mil.X, mil.part(3, mil.part(1, mil.floats(1)))), "no type"),
    "too few numbers": (constant(SOME, mil.value(SOME, mil.ints(1))), "has 1 numbers"),
    "too many numbers": (constant(SOME, mil.value(SOME, mil.ints(*range(9)))), "has 9 numbers"),
    "numbers of another type": (constant(SOME, mil.value(SOME, mil.floats(1, 2, 3))), "another type"),
    "a number beyond its type": (constant(SOME, mil.value(SOME, mil.ints(1, 2, 1 << 33))), "beyond it"),
    "half a number": (
        constant(SOME, mil.value(SOME, mil.part(2, mil.part(1, b"\1\2\xff")))), "ends beyond its field"),
    "too few bytes": (constant(mil.X, mil.value(mil.X, mil.floats(1, 2))), "need 16 bytes and have 8"),
    "a type of no kind": (
        constant(mil.tensor(99), mil.value(mil.tensor(99), b"")), "of type 99"),
    "an impossible shape": (
        constant(VAST, mil.blob(VAST, 64)), "impossible"),
    "a shape that overflows": (
        constant(LONG, mil.blob(LONG, 64)), "a size of 9223372036854775808"),
    "a hundred axes": (constant(MANY, b""), "a tensor's type"),
    "strings in the file of weights": (
        constant(mil.tensor(2, 4), mil.blob(mil.tensor(2, 4), 64)), "numbers alone"),
    "a tuple": (constant(TUPLE, mil.part(2, TUPLE) + mil.part(3, mil.part(2, b""))), "a tuple"),
    "an argument that is two": (
        only(mil.part(1, "mul") + mil.entry(2, "x", mil.part(1, mil.part(1, "x") + mil.part(1, "x")))),
        "not one value"),
    "a million empty operations": (only(*[mil.part(1, "const")] * 600_000), "operations allowed"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_models_are_refused(fault: str, tmp_path: Path) -> None:
    data, says = FAULTS[fault]
    file = tmp_path / "model.mlmodel"
    file.write_bytes(data)
    begun = time.perf_counter()
    with pytest.raises(BundleError, match=says) as caught:
        read_spec(file)
    assert str(caught.value).startswith(f"{file}: ") and str(caught.value).isascii()
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (mil.model(version=99), "version 99"),
        (mil.model(version=3), "version 3"),
        (mil.number(1, 8) + mil.part(2, mil.DESCRIPTION) + mil.part(500, b""), "older kind"),
        (mil.number(1, 8) + mil.part(2, mil.DESCRIPTION) + mil.part(202, b""), "a pipeline"),
    ],
)
def test_models_of_other_kinds_are_named(data: bytes, says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        parsed(data)


def test_half_a_model_at_every_byte() -> None:
    data = mil.model()
    for end in range(len(data)):
        with pytest.raises(BundleError):
            parsed(data[:end])


def test_any_changed_byte_is_read_or_refused() -> None:
    data = mil.model()
    refused = 0
    for place in range(len(data)):
        for flip in (0x01, 0x04, 0x80, 0xFF):
            changed = bytearray(data)
            changed[place] ^= flip
            try:
                parsed(bytes(changed))
            except EdgediffError:
                refused += 1
    assert refused > len(data)


def test_a_long_list_of_numbers_is_read_at_once() -> None:
    count = 4 << 20
    kind = mil.tensor(mil.INT32, count)
    one = constant(kind, mil.value(kind, mil.part(2, mil.part(1, b"\x07" * count))))
    begun = time.perf_counter()
    spec = parsed(one)
    assert time.perf_counter() - begun < 5
    assert int(spec.main.block.operations[0].attributes["val"].value.sum()) == 7 * count
