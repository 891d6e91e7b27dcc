"""The harness that measures other systems, with a system that does nothing; the arithmetic of its page."""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.against import measure, models, page
from benchmarks.against.driver import Worker, WorkerError
from benchmarks.against.record import Record
from benchmarks.against.rows import ROWS, Row, Setting
from edgediff import schedule
from edgediff.samplers import euler

SCRIPT = models.WORKERS / "on_nothing.py"


def worker(folder: Path, **options: Any) -> Worker:
    return Worker(Path(sys.executable), SCRIPT, options, folder / "logs" / "worker.log")


def test_a_worker_answers_whatever_its_system_prints(tmp_path: Path) -> None:
    start = tmp_path / "start.f32"
    start.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    with worker(tmp_path, wait=0.05) as one:
        loaded = one.ask("load")
        assert loaded["info"] == {"nothing": "1.0"} and loaded["peak_mb"] > 5
        assert one.ask("pass", count=2)["seconds"] == [0.05, 0.05]
        reply = one.ask("picture", steps=4, guidance=1.0, latents=str(start), out=str(tmp_path / "a.ppm"))
        assert reply["since_start"] > reply["seconds"] > 0
    picture = (tmp_path / "a.ppm").read_bytes()
    assert picture.startswith(b"P6 512 512 255\n") and len(picture) == 15 + 512 * 512 * 3
    assert (tmp_path / "a.latents").read_bytes() == start.read_bytes()
    assert "print what they like" in (tmp_path / "logs" / "worker.log").read_text()


def test_a_worker_is_stopped_while_it_is_not_asked(tmp_path: Path) -> None:
    with worker(tmp_path) as one:
        one.ask("load")
        end = time.monotonic() + 10
        while _state(one) != "T" and time.monotonic() < end:
            time.sleep(0.01)  # the signal is delivered when the kernel gets to it
        assert _state(one) == "T"


def _state(one: Worker) -> str:
    return Path(f"/proc/{one.process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("do", "fail", "text"),
    [("pass", "pass", "RuntimeError: no kernel"), ("picture", "end", "SystemExit: 3"), ("load", "start", "")],
)
def test_a_failure_is_told_and_ends_the_worker(tmp_path: Path, do: str, fail: str, text: str) -> None:
    if fail == "start":
        one = Worker(Path(sys.executable), tmp_path / "absent.py", {}, tmp_path / "worker.log")
    else:
        one = worker(tmp_path, fail=fail)
    with pytest.raises(WorkerError, match=text or "ended"):
        one.ask(do, count=1, steps=1, guidance=1.0)
    assert one.process.poll() is not None


def test_a_worker_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    one = worker(tmp_path, wait=30)
    with pytest.raises(WorkerError, match="no answer within 1 s"):
        one.ask("pass", count=1, limit=1.0)
    assert one.process.poll() is not None


def test_figures_are_kept_and_replaced_cell_by_cell(tmp_path: Path) -> None:
    file = tmp_path / "results" / "peers.json"
    first = Record(file)
    first.add("a", {"label": "A"}, "pass", {"seconds": [1.23456789]})
    first.add("a", {"label": "A"}, "cold_full", {"error": "no answer"})
    again = Record(file)
    assert again.has("a", "pass") and not again.has("a", "cold_full") and not again.has("b", "pass")
    assert json.loads(file.read_text())["rows"]["a"]["cells"]["pass"]["seconds"] == [1.2346]
    again.add("a", {"label": "A"}, "cold_full", {"seconds": [2.0]})
    assert Record(file).has("a", "cold_full") and Record(file).has("a", "pass")


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_noise_levels_are_those_of_the_schedule(steps: int) -> None:
    config = {**euler.DEFAULTS, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    asked = euler.schedule({**config, "timestep_spacing": "linspace"}, schedule.Request(steps))
    found = [here.sigma for here, _ in asked.hops]
    assert models.sigmas(steps)[:-1] == pytest.approx(found, rel=1e-4)  # there, alpha-bar is float32
    assert models.sigmas(steps)[-1] == 0


def test_embeddings_are_copied_to_the_tokens_of_another_vocabulary(tmp_path: Path) -> None:
    table = np.arange(12, dtype=np.float16).reshape(6, 2)
    other = np.full(3, 7, np.float16)
    header = {
        "o": {"dtype": "F16", "shape": [3], "data_offsets": [0, 6]},
        "x.token_embedding.weight": {"dtype": "F16", "shape": [6, 2], "data_offsets": [6, 30]},
    }
    text = json.dumps(header).encode()
    file = tmp_path / "m.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + other.tobytes() + table.tobytes())
    models.copy_rows(file, "token_embedding.weight", {0: 4, 1: 5})
    found = np.frombuffer(file.read_bytes()[8 + len(text) :], np.float16)
    assert found[:3].tolist() == [7, 7, 7]
    assert found[3:].reshape(6, 2).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1], [2, 3]]


def test_every_row_is_timed_beside_one_of_its_kind() -> None:
    for row in ROWS.values():
        assert ROWS[row.beside].peer and ROWS[row.beside].tiny == row.tiny
        assert all(name in ROWS for name in row.also)
        assert (models.WORKERS / row.worker).exists()


def cell(mine: list[float], theirs: list[float], beside: str = "genai-bf16") -> dict[str, Any]:
    return {"seconds": mine, "beside": beside, "beside_seconds": theirs, "date": "2026-01-02T03:04:05",
            "ratios": [a / b for a, b in zip(mine, theirs, strict=True)]}  # fmt: skip


def rows() -> page.Rows:
    def row(label: str, peer: bool, **cells: Any) -> dict[str, Any]:
        return {"label": label, "peer": peer, "tiny": False, "cells": cells}

    def cold(seconds: float, peak: float) -> dict[str, Any]:
        return {"seconds": [seconds], "peak_mb": [peak], "date": "2026-01-02T03:04:05"}

    return {
        "genai-bf16": row("GenAI", True, cold_full=cold(10, 6000)),
        "genai-hybrid": row("GenAI int8", True, picture_4=cell([6.0], [8.0]), cold_full=cold(8, 3000)),
        "sdcpp-q8": row("sd.cpp", True, picture_4=cell([80.0], [8.0]), cold_full=cold(20, 1000)),
        "ours-reduced": row("ours", False, picture_4=cell([4.0, 4.2], [8.0, 8.0]), cold_full=cold(4, 1500)),
        "ours-bf16": row("ours bf16", False, cold_full=cold(6, 5000), **{"pass": cell([2.0], [1.0])}),
        "broken": row("broken", True, **{"pass": {"error": "no kernel", "date": "2026-01-02T03:04:05"}}),
    }


def test_aims_are_judged_by_paired_ratios() -> None:
    found = {line.split("|")[1].strip(): line for line in page.aims(rows()).splitlines()}
    # 4.1 / 8 of GenAI's bf16, whose int8 takes 6 / 8 of it: 0.68 of the fastest
    assert "| 0.68x | met |" in found["4 steps, full decoder, of the fastest peer"]
    assert "| 2.00x | missed |" in found["pass, bf16, of GenAI bf16"]
    assert "| 0.60x | missed |" in found["cold, caches full, bf16 of GenAI bf16"]
    assert "not measured" in found["pass, int8, of GenAI bf16"]
    # sd.cpp is leaner, but 20 times slower than ours
    assert "| 0.50x | met |" in found["peak memory, of the leanest peer within twice our speed"]


def test_tables_show_the_row_that_others_were_timed_beside_and_what_failed() -> None:
    text = page.tables({"machine": {}, "rows": rows()})
    assert "| GenAI | 1.00 s | 1 | 8.00 s | 1 |" in text
    assert "| ours |  |  | 4.10 s | 0.51x (0.50 to 0.53) |" in text
    assert "* broken, pass: no kernel" in text


def test_passes_are_read_off_pictures() -> None:
    drawn = {"beside": "genai-bf16", "stages": [{"passes": [9.0, 10.0, 11.0, 30.0]}],
             "beside_stages": [{"denoiser": 4.2}]}  # fmt: skip
    found = peers.passes_of(drawn, 4)
    assert found["seconds"] == [9.0, 10.0, 11.0, 30.0] and found["ratios"] == [pytest.approx(10.0)]


class _Here:
    """Every environment is the running one."""

    def python(self, name: str) -> Path:
        return Path(sys.executable)

    def megabytes(self, name: str) -> float:
        return 12.0


class _Start:
    def __init__(self, file: Path) -> None:
        self._file = file

    def start(self) -> Path:
        return self._file


def test_a_run_takes_all_cells_once_and_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, model, results = tmp_path / "start.f32", tmp_path / "model.bin", tmp_path / "peers.json"
    start.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    model.write_bytes(bytes(2_000_000))

    def row(label: str, wait: float, peer: bool = True, **more: Any) -> Row:
        def options(setting: Setting, key: str) -> dict[str, Any]:
            return {"wait": wait, "fail": more.get("fail")}

        kept = {name: value for name, value in more.items() if name != "fail"}
        return Row(label, "here", "on_nothing.py", options, lambda _: model, peer=peer, **kept)

    monkeypatch.setattr(peers, "REFERENCE", "genai-bf16")
    monkeypatch.setattr(measure, "REFERENCE", "genai-bf16")
    rows = {"genai-bf16": row("base", 0.02), "mine": row("mine", 0.01, peer=False, guided=True),
            "broken": row("broken", 0.01, fail="pass", slow=True)}  # fmt: skip
    for module in (peers, measure):
        monkeypatch.setattr(module, "ROWS", rows)
    setting = Setting(_Start(start), lambda form: tmp_path, tmp_path / "caches")  # type: ignore[arg-type]
    bench = measure.Bench(tmp_path, _Here(), setting, 2)  # type: ignore[arg-type]
    peers.Run(bench, Record(results), False).all(list(rows), list(peers.CELLS))
    found = json.loads(results.read_text())["rows"]
    taken = found["mine"]["cells"]
    assert taken["pass"]["ratios"] == [0.5, 0.5] and len(taken["picture_4"]["ratios"]) == 1
    assert taken["size"] == {"install_mb": 12.0, "model_mb": 2.0, "date": taken["size"]["date"]}
    assert taken["cold_full"]["peak_mb"][0] > 5 and len(taken["cold_full"]["seconds"]) == 2
    assert "picture_20" in taken and taken["fidelity"]["finite"]
    assert "no kernel" in found["broken"]["cells"]["pass"]["error"]
    assert "| mine |" in page.tables(json.loads(results.read_text()))
    before = results.read_text()
    peers.Run(bench, Record(results), False).all(["genai-bf16", "mine"], ["size", "cold", "pass", "pictures"])
    assert results.read_text() == before
