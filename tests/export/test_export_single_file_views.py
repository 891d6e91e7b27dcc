"""Parts of tensors under other names, read in runs of any size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgediff.errors import SourceError
from edgediff.export.tensors import TensorFiles
from edgediff.export.views import Piece, View

RNG = np.random.default_rng(0)
FUSED = RNG.standard_normal((12, 5)).astype(np.float32)
SQUARE = RNG.standard_normal((6, 6, 1, 1)).astype(np.float16)
WIDE = RNG.standard_normal((7, 9)).astype(np.float32)
PIECES = {
    "first": Piece("fused", (0, 4)),
    "middle": Piece("fused", (4, 8)),
    "last": Piece("fused", (8, 12)),
    "square": Piece("square", shape=(6, 6)),
    "turned": Piece("wide", transposed=True),
    "part turned": Piece("fused", (3, 8), transposed=True),
    "same": Piece("wide"),
    "number": Piece("number"),
    "bias": Piece("bias", (1, 3)),
}
WANTED = {
    "first": FUSED[:4],
    "middle": FUSED[4:8],
    "last": FUSED[8:],
    "square": SQUARE[:, :, 0, 0],
    "turned": WIDE.T,
    "part turned": FUSED[3:8].T,
    "same": WIDE,
    "number": np.float32(2.5),
    "bias": WIDE[0, 1:3],
}


@pytest.fixture
def files(tmp_path: Path) -> TensorFiles:
    tensors = {"fused": FUSED, "square": SQUARE, "wide": WIDE, "bias": WIDE[0].copy()}
    save_file({**tensors, "number": np.array(2.5, np.float32)}, tmp_path / "x.safetensors")
    return TensorFiles([tmp_path / "x.safetensors"])


@pytest.mark.parametrize("limit", [1, 24, 50, 1 << 20])
@pytest.mark.parametrize("name", PIECES)
def test_pieces(name: str, limit: int, files: TensorFiles) -> None:
    view = View(files, PIECES)
    assert view.entries[name].shape == WANTED[name].shape
    runs = list(view.rows(name, limit))
    np.testing.assert_array_equal(np.concatenate(runs).reshape(WANTED[name].shape), WANTED[name])
    np.testing.assert_array_equal(view.whole(name), WANTED[name])
    assert view.whole(name).dtype == WANTED[name].dtype
    if WANTED[name].ndim:
        assert all(run.shape[1:] == WANTED[name].shape[1:] for run in runs)


def test_runs_are_bounded(files: TensorFiles) -> None:
    """A transpose is made from many short reads, not from one of everything."""

    class Counted:
        entries = files.entries
        largest = 0

        def rows(self, name: str, limit: int) -> Iterator[np.ndarray[Any, Any]]:
            for run in files.rows(name, limit):
                self.largest = max(self.largest, run.nbytes)
                yield run

        def whole(self, name: str) -> np.ndarray[Any, Any]:
            raise AssertionError("read at once")

    counted = Counted()
    runs = list(View(counted, PIECES).rows("turned", 80))
    assert counted.largest <= 80 and all(run.nbytes <= 80 for run in runs) and len(runs) == 5


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (Piece("fused", (8, 13)), r"tensor fused is \(12, 5\); expected rows 8 to 13"),
        (Piece("fused", (4, 4)), "rows 4 to 4"),
        (Piece("number", (0, 1)), "rows 0 to 1"),
        (Piece("square", transposed=True), "expected a matrix"),
        (Piece("square", shape=(36,)), r"expected the numbers of \(36,\)"),
        (Piece("square", shape=(6, 5)), r"expected the numbers of \(6, 5\)"),
    ],
)
def test_impossible_pieces(piece: Piece, message: str, files: TensorFiles) -> None:
    with pytest.raises(SourceError, match=message):
        View(files, {"x": piece})
