"""Graphs that must not reach ONNX Runtime: each row of the fault table, made by code, refused with its
reason."""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff import onnx_operators, onnx_scan
from edgediff.bundle import GraphSpec
from edgediff.errors import BundleError, EdgediffError, UnsupportedError

pytest.importorskip("onnx")
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile import OUT, SPEC, TENSORS, Y, graph, node, outside, product, refused, scan


def test_what_they_all_start_from_is_accepted(tmp_path: Path) -> None:
    report = scan(tmp_path, product(w=outside(checksum="")))
    assert report.operators == {"MatMul": 1}
    assert (report.nodes, report.initializers, report.opsets, report.ir_version) == (1, 1, {"": 17}, 10)
    assert report.external_files == (tmp_path / "weights",)
    assert scan(tmp_path, product()).inline_bytes == 64


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (random.Random(0).randbytes(4096), "model"),
        (b"\0" * 4096, "no field 0"),
        (b"\x08\x0a", "names no version"),
        (b"<!doctype html><title>404</title>", "web page"),
        (b"\n  <?xml version='1.0'?>", "web page"),
        (b'{"error": "not found"}', "JSON"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (product().SerializeToString()[:-40], "ends beyond"),
        (product().SerializeToString() * 2, "two graphs"),
        (product().SerializeToString() + b"\xff" * 11, "more than ten bytes"),
        (product().SerializeToString() + b"\x0b", "wire type"),
    ],
)
def test_f026_no_graph(tmp_path: Path, content: bytes, says: str) -> None:
    refused(tmp_path, content, says)


def test_f026_half_a_file_at_every_byte(tmp_path: Path) -> None:
    whole = product().SerializeToString()
    for end in range(len(whole)):
        with pytest.raises(EdgediffError):
            scan(tmp_path, whole[:end])


PLACES = ["../out/secret", "a/weights", "./weights", "/etc/passwd", "C:\\secret", "C:weights", "a\\weights"]
PLACES += [
    "..",
    ".",
    "",
    "weights\0",
    "\0",
    "*/_ORT_MEM_ADDR_/*",
    "nul",
    "weights.",
    "w\u00e9ights",
    "a" * 101,
]


@pytest.mark.parametrize("location", PLACES)
def test_f027_f029_f032_f033_locations(tmp_path: Path, location: str) -> None:
    (tmp_path.parent / "out").mkdir(exist_ok=True)
    (tmp_path.parent / "out" / "secret").write_bytes(bytes(64))
    refused(tmp_path, product(w=outside(location)), "no plain name of a file in the graph's own folder")


def test_f027_no_location(tmp_path: Path) -> None:
    tensor = outside()
    del tensor.external_data[0]
    refused(tmp_path, product(w=tensor), "no plain name")


def sparse(values: TensorProto) -> Any:
    indices = numpy_helper.from_array(np.arange(16, dtype=np.int64), "i")
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4, 4])


def _constant_attribute() -> Any:
    return graph(node("Constant", [], ["w"], value=outside()), node("MatMul", ["x", "w"], ["y"]))


def _sparse_initializer() -> Any:
    model = product()
    model.graph.sparse_initializer.append(sparse(outside(dims=(16,))))
    return model


def _sparse_constant() -> Any:
    made = node("Constant", [], ["w"], sparse_value=sparse(outside(dims=(16,))))
    return graph(made, node("MatMul", ["x", "w"], ["y"]))


def _subgraph() -> Any:
    inner = helper.make_graph([node("Identity", ["w"], ["z"])], "then", [], [Y], [outside()])
    return graph(node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))


def _subgraph_of_an_allowed_operator() -> Any:
    inner = helper.make_graph([], "inner", [], [], [outside()])
    return graph(node("Relu", ["x"], ["y"], body=inner))


def _graphs_attribute() -> Any:
    return graph(node("Relu", ["x"], ["y"], bodies=[helper.make_graph([], "inner", [], [])]))


def _function() -> Any:
    model = graph(node("Relu", ["x"], ["y"]))
    inner = [node("Constant", [], ["b"], value=outside())]
    model.functions.append(helper.make_function("own", "f", ["a"], ["b"], inner, model.opset_import))
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_constant_attribute, "where weights alone may be"),
        (_sparse_initializer, "sparse weights"),
        (_sparse_constant, "sparse tensor"),
        (_subgraph, "'If', which is not allowed"),
        (_subgraph_of_an_allowed_operator, "attribute with a graph"),
        (_graphs_attribute, "attribute with a graph"),
        (_function, "functions of its own"),
    ],
)
def test_f028_weights_elsewhere(tmp_path: Path, make: Callable[[], Any], says: str) -> None:
    refused(tmp_path, make(), says)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device", "missing"])
@pytest.mark.parametrize("name", ["model.onnx", "weights"])
def test_f029_no_regular_file(tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scan(tmp_path, product(w=outside()))
    (tmp_path / name).unlink()
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    made = {
        "pipe": lambda: os.mkfifo(name),
        "socket": lambda: socket.socket(socket.AF_UNIX).bind(name),
        "folder": (tmp_path / name).mkdir,
        "device": lambda: (tmp_path / name).symlink_to("/dev/zero"),
        "missing": lambda: None,
    }
    made[kind]()  # type: ignore[operator]
    stated = GraphSpec("onnxruntime", "portable", "model.onnx", "unknown", TENSORS, OUT, ("weights",))
    for spec in (SPEC, stated):
        with pytest.raises(BundleError, match=kind if kind != "missing" else "no such file"):
            onnx_scan.scan(tmp_path / "model.onnx", spec if kind != "device" else stated)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"offset": "65"}, "a tensor ends at 129"),
        ({"offset": "1"}, "a tensor ends at 65"),
        ({"offset": str(1 << 40)}, "belong to no tensor"),
        ({"offset": "-1"}, "no number"),
        ({"offset": "0x0"}, "no number"),
        ({"offset": " 0"}, "no number"),
        ({"offset": ""}, "no number"),
        ({"offset": "1e3"}, "no number"),
        ({"offset": "9" * 40}, "no number"),
        ({"offset": "\u0661"}, "no number"),
        ({"length": str(1 << 40)}, "needs 64 bytes of weights and names 1099511627776"),
        ({"length": "-64"}, "no number"),
        ({"length": "60"}, "needs 64 bytes"),
        ({"length": "68"}, "needs 64 bytes"),
        ({"length": "0"}, "needs 64 bytes"),
        ({"length": "none"}, "no number"),
    ],
)
def test_f034_offset_and_length(tmp_path: Path, entries: dict[str, str], says: str) -> None:
    refused(tmp_path, product(w=outside(**entries)), says)


def test_f034_they_may_be_left_out(tmp_path: Path) -> None:
    assert scan(tmp_path, product(w=outside(offset=None, length=None))).external_files


@pytest.mark.parametrize(
    "dims",
    [(1 << 40,), (-1, 4), (1 << 62, 4), (1 << 32, 1 << 32), (1 << 62, 0), (1,) * 65, (3, 4), (4, 5), ()],
)
@pytest.mark.parametrize("beside", [True, False])
def test_f035_dims(tmp_path: Path, dims: tuple[int, ...], beside: bool) -> None:
    inside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(64))
    refused(tmp_path, product(w=outside(dims=dims) if beside else inside), "impossible dims|needs \\d+ bytes")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data_type": 0}, "type 0"),
        ({"data_type": TensorProto.STRING}, "type 8"),
        ({"data_type": 27}, "type 27"),
        ({"data_location": 1}, "in the graph and beside"),
        ({"float_data": [1.0]}, "data twice"),
        ({"raw_data": b"", "int32_data": [0] * 16}, "another type|data twice"),
        ({"segment": TensorProto.Segment(begin=0, end=1)}, "field 3"),
        ({"string_data": [b"a"]}, "field 6"),
    ],
)
def test_f035_tensors_that_contradict_themselves(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    plain = {"name": "w", "data_type": TensorProto.FLOAT, "dims": (4, 4), "raw_data": bytes(64)}
    refused(tmp_path, product(w=TensorProto(**{**plain, **change})), says)


@pytest.mark.parametrize(
    ("places", "size", "says"),
    [
        ([(0, 4), (60, 4)], 124, "overlap"),
        ([(0, 4), (0, 4)], 64, "overlap"),
        ([(0, 4), (64 + (64 << 10) + 1, 4)], 66000, "belong to no tensor"),
        ([((64 << 10) + 1, 4), (66000, 4)], 66064, "belong to no tensor"),
        ([(0, 4), (64, 4)], 128 + (64 << 10) + 1, "the last 65537 bytes"),
    ],
)
def test_f036_overlaps_and_gaps(tmp_path: Path, places: Any, size: int, says: str) -> None:
    first, second = (outside(offset=str(at), name=f"w{i}") for i, (at, _) in enumerate(places))
    refused(tmp_path, product(w0=first, w1=second), says, weights=size)


def test_f036_padding_is_no_gap(tmp_path: Path) -> None:
    tensors = {f"w{i}": outside(offset=str(at), name=f"w{i}") for i, at in enumerate((4096, 0, 69632))}
    assert scan(tmp_path, product(**tensors), weights=69632 + 64)


@pytest.mark.parametrize("entry", ["basepath", "__class__", "Location", "", "location", "length"])
def test_f037_keys(tmp_path: Path, entry: str) -> None:
    tensor = outside()
    tensor.external_data.add(key=entry, value="weights")
    refused(tmp_path, product(w=tensor), "twice or unknown")


def test_weights_that_the_manifest_does_not_list(tmp_path: Path) -> None:
    spec = GraphSpec("onnxruntime", "portable", "model.onnx", "unknown", TENSORS, OUT, ("unet/weights",))
    refused(tmp_path, product(w=outside()), "does not list among its weights", spec)


def test_seventeen_files(tmp_path: Path) -> None:
    tensors = {f"w{i}": outside(f"weights_{i}", name=f"w{i}") for i in range(17)}
    refused(tmp_path, product(**tensors), "17 files, and at most 16")


@pytest.mark.parametrize("depth", [100, 3000, 30_000])
def test_f041_nesting(tmp_path: Path, depth: int) -> None:
    inner = b""
    for level in itertools.cycle((0x3A, 0x0A, 0x2A, 0x32)):  # model, graph, node, attribute, graph, node ...
        size, tail = len(inner), []
        while size > 0x7F:
            tail.append(size & 0x7F | 0x80)
            size >>= 7
        inner = bytes([level, *tail, size]) + inner
        depth -= 1
        if not depth:
            break
    refused(tmp_path, b"\x08\x0a\x3a" + inner[1:], "model.onnx")


def test_the_list_of_operators_is_short_of_what_loops() -> None:
    standard = {schema.name.encode() for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert onnx_operators.STANDARD - standard == {b"SimplifiedLayerNormalization"}  # ONNX Runtime's own
    never = {b"Loop", b"Scan", b"If", b"SequenceMap", b"StringConcat", b"ImageDecoder", b"EPContext"}
    assert not never & (onnx_operators.STANDARD | onnx_operators.MICROSOFT)


@pytest.mark.parametrize(
    ("ir", "opset"), [(99, 17), (2, 17), (14, 17), (10, 99), (10, 27), (10, 6), (10, -1)]
)
def test_f046_versions(tmp_path: Path, ir: int, opset: int) -> None:
    model = product()
    model.ir_version, model.opset_import[0].version = ir, opset
    with pytest.raises(UnsupportedError, match=r"\d+ to \d+ are read\. Export the model again, or upgrade"):
        scan(tmp_path, model)


def test_f053_two_gigabytes(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as stream:
        stream.write(product().SerializeToString())
        stream.truncate((2 << 30) + 1)  # sparse: takes no room on the disk
    with pytest.raises(BundleError, match="weights beside the graph"):
        onnx_scan.scan(tmp_path / "model.onnx", SPEC)
