"""Files of weights: every type as coremltools writes it, and records that lead astray."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff.errors import BundleError, EdgediffError
from edgediff.mil_blob import Blobs
from edgediff.mil_program import Blob, TypeOf
from edgediff.mil_scan import scan
from edgediff.mlpackage import open_package
from tests.edgediff import mil_bytes as mil

ROW = TypeOf("float32", (1, 4))
AT = Blob(mil.WEIGHTS.decode(), 64)


def written(folder: Path, data: bytes) -> Path:
    file = folder / "weight.bin"
    file.write_bytes(data)
    return file


def test_what_they_all_start_from_is_read(tmp_path: Path) -> None:
    with Blobs(written(tmp_path, mil.BLOB)) as blobs:
        np.testing.assert_array_equal(blobs.array(AT, ROW), mil.NUMBERS)
        assert blobs.place(AT, ROW) == (128, 16)


LIMITS = {
    "int4": (-8, 8), "uint1": (0, 2), "uint2": (0, 4), "uint3": (0, 8), "uint4": (0, 16), "uint6": (0, 64),
    "int8": (-128, 128), "uint8": (0, 256), "int16": (-(1 << 15), 1 << 15), "uint16": (0, 1 << 16),
    "int32": (-(1 << 31), 1 << 31), "uint32": (0, 1 << 32), "float16": (-9, 9), "float32": (-9, 9),
}  # fmt: skip
NAMES = {"float32": "float"}


def test_every_type_as_coremltools_writes_it(tmp_path: Path) -> None:
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil import types
    from coremltools.libmilstoragepython import _BlobStorageWriter

    random = np.random.default_rng(0)
    file = tmp_path / "weight.bin"
    writer = _BlobStorageWriter(str(file))
    offsets: dict[tuple[str, int], tuple[int, Any]] = {}
    for dtype, (low, high) in LIMITS.items():
        for count in (1, 7, 8, 13, 64, 333):
            whole = random.integers(low, high, count)
            special = types.nptype_from_builtin(getattr(types, dtype)) if dtype in _SMALL else dtype
            numbers = whole.astype(special)
            stored = numbers.view(np.uint16) if dtype == "float16" else numbers
            name = "fp16" if dtype == "float16" else NAMES.get(dtype, dtype)
            offsets[dtype, count] = (getattr(writer, f"write_{name}_data")(stored), whole)
    del writer  # which finishes the file
    with Blobs(file) as blobs:
        for (dtype, count), (offset, whole) in offsets.items():
            found = blobs.array(Blob("", offset), TypeOf(dtype, (count,)))
            assert found.dtype == {"i": np.int8, "u": np.uint8}[dtype[0]] if dtype in _SMALL else dtype
            np.testing.assert_array_equal(found.astype(np.float64), whole.astype(np.float64))


_SMALL = {"int4", "uint1", "uint2", "uint3", "uint4", "uint6"}
FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends at byte 0"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n".ljust(64), "git lfs pull"),
    "another version": (mil.record(2, 16, 128, version=1) + bytes(16), "version 1"),
    "no record": (mil.record(2, 16, 128, sentinel=0xDEADBEE0) + bytes(16), "no record"),
    "another type": (mil.record(1, 16, 128) + bytes(16), "is of float16"),
    "an unknown type": (mil.record(99, 16, 128) + bytes(16), "type 99"),
    "too few bytes": (mil.record(2, 12, 128) + bytes(16), "has 12 bytes"),
    "too many bytes": (mil.record(2, 1 << 63, 128) + bytes(16), "needs 16"),
    "padding": (mil.record(2, 16, 128, padding=3) + bytes(16), "3 bits of padding"),
    "beyond the file": (mil.record(2, 16, 192) + bytes(16), "beyond the file"),
    "far beyond the file": (mil.record(2, 16, (1 << 64) - 64) + bytes(16), "beyond the file"),
    "over its own record": (mil.record(2, 16, 64) + bytes(16), "beyond the file"),
    "not aligned": (mil.record(2, 16, 132) + bytes(64), "not aligned"),
    "cut": (mil.record(2, 16, 128) + bytes(15), "beyond the file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_records_are_refused(fault: str, tmp_path: Path) -> None:
    data, says = FAULTS[fault]
    package = open_package(mil.write(tmp_path, weights=data))
    with pytest.raises(BundleError, match=says):
        scan(package)


@pytest.mark.parametrize("offset", [0, 1, 63, 65, 128, 1 << 63])
def test_no_record_can_be_there(offset: int, tmp_path: Path) -> None:
    with Blobs(written(tmp_path, mil.BLOB)) as blobs, pytest.raises(BundleError, match="outside the file"):
        blobs.place(Blob("", offset), ROW)


def test_half_a_file_at_every_byte(tmp_path: Path) -> None:
    file = open_package(mil.write(tmp_path)).weights
    assert file is not None
    for end in range(len(mil.BLOB)):
        file.write_bytes(mil.BLOB[:end])
        with pytest.raises(BundleError):
            scan(open_package(tmp_path / "m.mlpackage"))


def test_any_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    file = open_package(mil.write(tmp_path)).weights
    assert file is not None
    for place in range(128):
        changed = bytearray(mil.BLOB)
        changed[place] ^= 0xFF
        file.write_bytes(changed)
        try:
            scan(open_package(tmp_path / "m.mlpackage"))
        except EdgediffError as error:
            assert isinstance(error, BundleError)


def test_arrays_that_overlap_are_refused(tmp_path: Path) -> None:
    data = mil.record(2, 16, 192)[:128] + mil.record(2, 16, 192)[64:128] + mil.NUMBERS.tobytes()
    other = mil.const("w2", mil.X, mil.blob(mil.X, 128))
    same = mil.function(mil.W, other, mil.SCALE, mil.MUL, mil.LAST)
    scan(open_package(mil.write(tmp_path / "same", mil.model(same), data)))  # one array that is named twice
    wide = mil.tensor(mil.FLOAT32, 8)
    data = mil.record(2, 32, 192)[:128] + mil.record(2, 16, 192)[64:128] + bytes(32)
    longer = mil.function(
        mil.const("w0", wide, mil.blob(wide, 64)), mil.const("w", mil.X, mil.blob(mil.X, 128)),
        mil.SCALE, mil.MUL, mil.LAST,
    )  # fmt: skip
    with pytest.raises(BundleError, match="overlap"):
        scan(open_package(mil.write(tmp_path / "other", mil.model(longer), data)))


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    package = open_package(mil.write(tmp_path, weights=None))
    assert package.weights is None
    with pytest.raises(BundleError, match=r"no weight\.bin"):
        scan(package)
