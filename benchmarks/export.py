"""Export: seconds, peak memory and bytes for full-size models. ``python -m benchmarks.export onnx|coreml``.

Makes the models (``benchmarks.full_size``), runs ``edgediff export`` on each in a fresh process, checks
included, and prints the median with its spread. The peak is the largest resident set of the process and of
those it started; file pages that it maps count.

``onnx``: ``--optimum PYTHON`` runs ``optimum-cli export onnx`` of another environment on the same folders,
once (``--optimum-on``: those that its memory allows). ``coreml``: each of ``--forms``, with and without a
receipt (``benchmarks.coreml_export``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import coreml_export
from benchmarks.full_size import MODELS, make
from benchmarks.machine import card


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["onnx", "coreml"])
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["sd15", "sdxl"])
    parser.add_argument(
        "--stored", choices=["float16", "float32"], default="float16", help="in the checkpoint"
    )
    parser.add_argument("--dtypes", nargs="+", choices=["fp32", "fp16"], default=["fp16", "fp32"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="where models and bundles go (default: a new folder)")
    parser.add_argument("--optimum", metavar="PYTHON", help="interpreter of an environment with optimum-onnx")
    parser.add_argument("--optimum-on", nargs="+", choices=sorted(MODELS), default=["sd15"])
    coreml_export.add_options(parser)
    parser.add_argument("--out", type=Path, help="also write the record to this file; coreml: add to it")
    options = parser.parse_args()
    if options.target == "coreml":
        coreml_export.main(options)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        rows = [row for kind in options.models for row in _model(kind, Path(scratch), options)]
    record = {"machine": card(), "checkpoint": options.stored, "runs": options.runs, "exports": rows}
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def _model(kind: str, scratch: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    folder = make(kind, scratch / kind, options.stored)
    rows = []
    for dtype in options.dtypes:
        out = scratch / f"{kind}-{dtype}"
        command = [sys.executable, "-m", "edgediff", "export", "onnx", "-m", str(folder), str(out), "-q"]
        measured = [_run([*command, "--dtype", dtype, "--overwrite"]) for _ in range(options.runs)]
        rows.append(_row(kind, "edgediff", dtype, measured, out))
    if options.optimum and kind in options.optimum_on:
        out = scratch / f"{kind}-optimum"
        tool = str(Path(options.optimum).with_name("optimum-cli"))
        measured = [_run([tool, "export", "onnx", "--task", "text-to-image", "-m", str(folder), str(out)])]
        rows.append(_row(kind, "optimum", "fp32", measured, out))
    shutil.rmtree(folder)
    return rows


def _row(
    kind: str, exporter: str, dtype: str, measured: list[tuple[float, float]], out: Path
) -> dict[str, Any]:
    row = {"model": kind, "exporter": exporter, "dtype": dtype, **_summary(measured), "bytes": _size(out)}
    shutil.rmtree(out)
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def _run(command: list[str]) -> tuple[float, float]:
    """Seconds, and the peak resident MiB of the process and its children."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    complaints = process.stderr.read() if process.stderr is not None else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed: {complaints.decode(errors='replace')[-1500:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def _summary(measured: list[tuple[float, float]]) -> dict[str, float]:
    seconds, peaks = zip(*measured, strict=True)
    return {
        "median_s": round(statistics.median(seconds), 1),
        "min_s": round(min(seconds), 1),
        "max_s": round(max(seconds), 1),
        "peak_rss_mib": round(max(peaks)),
    }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
