"""What the quantization benchmarks compute from what they measure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import quantize_page
from benchmarks.paired import difference
from benchmarks.quantize_export import _held, run


def test_the_interval_of_a_paired_difference_covers_it():
    """1000 samples of a known difference: an interval of 95 % misses about 50 of them."""
    rng = np.random.default_rng(0)
    right = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool)
    missed = 0
    for _ in range(1000):
        cases = right[rng.choice(4, 400, p=[0.7, 0.07, 0.03, 0.2])]
        found = difference(cases[:, 0].tolist(), cases[:, 1].tolist())
        missed += not found["low"] <= -4.0 <= found["high"]
    assert 25 < missed < 80


def test_a_paired_difference_counts_what_only_one_got_right():
    found = difference([True] * 8 + [False] * 2, [True] * 5 + [False] * 4 + [True])
    assert (found["lost"], found["won"], found["points"]) == (3, 1, -20.0)
    assert found["p"] == pytest.approx(2 * (1 + 4) / 16)  # at most 1 of 4 on one side, twice


def test_equal_verdicts_still_leave_an_interval():
    found = difference([True] * 90 + [False] * 10, [True] * 90 + [False] * 10)
    assert found["points"] == 0
    assert found["low"] < 0 < found["high"]


def test_cases_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="2 and 1 cases"):
        difference([True, False], [True])


def test_bytes_that_a_graph_refers_to_twice_count_once(tmp_path):
    inside = numpy_helper.from_array(np.zeros(3, np.float32), "inside")
    nibbles = helper.make_tensor("nibbles", TensorProto.UINT4, [5], [0] * 5)
    tensors = [inside, nibbles]
    for name in ("one", "other"):
        apart = onnx.TensorProto(name=name, data_type=TensorProto.INT8, dims=[16])
        apart.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "w", "offset": "0", "length": "16"}.items():
            apart.external_data.add(key=key, value=value)
        tensors.append(apart)
    file = tmp_path / "model.onnx"
    file.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], tensors)).SerializeToString())
    assert _held(file) == 12 + 3 + 16


def test_a_process_is_timed_and_its_lines_kept():
    done = run([sys.executable, "-c", "import sys; print('line', file=sys.stderr); sys.exit(3)"])
    assert done.code == 3
    assert [line for line, _, _ in done.said] == ["line", ""]
    assert 0 <= done.said[0][1] <= done.seconds


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_peak_is_that_of_the_process_and_its_children():
    child = "import time; x = bytearray(10**8); time.sleep(0.4)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    peak = run([sys.executable, "-c", parent]).peak_mb
    assert peak is not None and 100 < peak < 200


def test_the_page_shows_what_its_records_say():
    file = Path(quantize_page.PAGE)
    text = file.read_text(encoding="utf-8")
    assert quantize_page.page(text) == text
