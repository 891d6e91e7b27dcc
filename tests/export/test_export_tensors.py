"""The safetensors reader: types, runs, and damaged headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import write_safetensors

from edgediff.errors import SourceError
from edgediff.export.tensors import TensorFiles


def raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(begin: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DAMAGED: dict[str, tuple[Any, bytes]] = {
    "hole": ({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)),
    "overlap": ({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, bytes(8)),
    "trailing": ({"a": entry(0, 4, [1])}, bytes(5)),
    "truncated": ({"a": entry(0, 4, [1])}, bytes(3)),
    "length against shape": ({"a": entry(0, 4, [2])}, bytes(4)),
    "negative": ({"a": entry(0, 4, [-1, -1])}, bytes(4)),
    "boolean": ({"a": entry(0, 4, [True])}, bytes(4)),
    "overflow": ({"a": entry(0, 4, [1 << 62, 1 << 62])}, bytes(4)),
    "unknown type": ({"a": entry(0, 4, [1], "F4")}, bytes(4)),
    "backwards": ({"a": entry(4, 0, [1])}, bytes(4)),
    "no entry": ({"a": 3}, b""),
    "list": ({"a": {"dtype": [], "shape": {}, "data_offsets": []}}, b""),
    "key twice": (b'{"a": {"dtype":"F32","shape":[0],"data_offsets":[0,0]}, "a": 1}', b""),
    "no JSON": (b"{{", b""),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(name: str, tmp_path: Path) -> None:
    header, data = DAMAGED[name]
    with pytest.raises(SourceError, match=r"x\.safetensors"):
        TensorFiles([raw(tmp_path / "x.safetensors", header, data)])


@pytest.mark.parametrize("length", [0, 1, 1 << 40, (1 << 64) - 1])
def test_wrong_header_length(length: int, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a safetensors file"):
        TensorFiles([raw(tmp_path / "x.safetensors", b"{}", length=length)])


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(SourceError, match="not a safetensors file"):
        TensorFiles([tmp_path / "x.safetensors"])


def test_types_and_runs(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((7, 3), np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    write_safetensors(
        tmp_path / "x.safetensors",
        {
            "f32": values,
            "f16": values.astype(np.float16),
            "bf16": ("BF16", bits),
            "f64": values.astype(float),
        },
    )
    tensors = TensorFiles([tmp_path / "x.safetensors"])
    np.testing.assert_array_equal(tensors.whole("f32"), values)
    np.testing.assert_array_equal(tensors.whole("f16"), values.astype(np.float16))
    bf16 = tensors.whole("bf16")
    assert bf16.dtype == np.float32
    np.testing.assert_array_equal(bf16, (bits.astype(np.uint32) << 16).view(np.float32))
    runs = list(tensors.rows("f32", 2 * 3 * 4))
    assert [len(run) for run in runs] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(runs), values)
    with pytest.raises(SourceError, match="f64 is F64"):
        tensors.whole("f64")


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"t": np.zeros(1, np.float32)})
    with pytest.raises(SourceError, match=r"tensor t is also in a\.safetensors"):
        TensorFiles([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


def test_cut_while_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"t": np.zeros(100, np.float32)})
    tensors = TensorFiles([path])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SourceError, match="ended while it was read"):
        tensors.whole("t")
