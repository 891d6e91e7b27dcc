"""The graph table on networks that take no time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
sys.path.insert(0, str(Path(__file__).parents[1] / "export"))

from export_helpers import model_folder

from benchmarks import graphs
from edgediff.export.main import export_onnx

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("role", ["denoiser", "decoder", "encoder"])
def test_table(role: str, tmp_path: Path) -> None:
    """A folder of ours stands for Optimum's: both have the same names, inputs and outputs."""
    export_onnx(str(model_folder(tmp_path / "model")), str(tmp_path / "out"), verify=False)
    options = argparse.Namespace(
        theirs=tmp_path / "out", role=role, profiles="portable,ort-cpu", size=8, tokens=5, batch=2, rounds=3,
        threads=1,
    )  # fmt: skip
    record = graphs._record(graphs._files(tmp_path / "out", options), options)
    rows = record["graphs"]
    assert list(rows) == ["optimum", "portable", "ort-cpu"]
    assert rows["optimum"]["nodes"] == rows["portable"]["nodes"] > rows["ort-cpu"]["nodes"] > 10
    assert rows["optimum"]["weight_bytes"] == rows["ort-cpu"]["weight_bytes"] > 1000
    for name, row in rows.items():
        assert 0 < row["seconds"]["min"] <= row["seconds"]["median"] <= row["seconds"]["max"]
        assert row["peak_rss_mb"] > 10
        if name != "ort-cpu":
            assert row["difference"] < 1e-4
            assert row["times_as_long"]["min"] > 0
