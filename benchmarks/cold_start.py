"""Cold start: a new process, from nothing to a picture on disk. ``python -m benchmarks.cold_start``.

Runs ``edgediff run`` of the installed package in fresh processes, one after the other, and prints the median
with its spread, the peak resident memory and the size of the environment. ``--fresh`` makes a virtual
environment with nothing but edgediff first, so that the size is that of an installation. The page cache is
warm after the first run, which is printed by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import card

PROMPT = "a red circle to the left of a blue square on a white background"


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--fresh", action="store_true", help="install into a new virtual environment first")
    parser.add_argument("--out", type=Path, help="also write the record to this file")
    parser.add_argument("--bundle", help="a bundle instead of the embedded model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        python = _fresh(folder / "venv") if options.fresh else Path(sys.executable)
        arguments = [
            str(python),
            "-m",
            "edgediff",
            "run",
            PROMPT,
            "-o",
            "out.png",
            "--overwrite",
            "-q",
            "-s",
            "0",
        ]
        if options.bundle:
            arguments += ["-m", str(Path(options.bundle).absolute())]
        seconds, peaks = zip(*(_one(arguments, folder) for _ in range(options.runs + 1)), strict=True)
        record = {
            "machine": card(),
            "command": " ".join(["edgediff", *arguments[3:]]),
            "runs": options.runs,
            "first_run_s": round(seconds[0], 3),
            "median_s": round(statistics.median(seconds[1:]), 3),
            "min_s": round(min(seconds[1:]), 3),
            "max_s": round(max(seconds[1:]), 3),
            "peak_rss_mb": round(max(peaks) / 1e6, 1),
            "environment_mb": round(_size(folder / "venv") / 1e6, 1) if options.fresh else None,
        }
        print(json.dumps(record, indent=2))
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(record, indent=2) + "\n")


def _fresh(folder: Path) -> Path:
    """Install this checkout into a new environment and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    root = Path(__file__).parents[1]
    # pip of the running Python installs into the other one, so that pip's own megabytes are not counted.
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile", root],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return python


def _one(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Return wall seconds and peak resident bytes of one process."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    began = time.perf_counter()
    with subprocess.Popen(arguments, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if process.returncode or not (folder / "out.png").exists():
        raise SystemExit(f"the command failed with status {process.returncode}: {' '.join(arguments)}")
    return seconds, _bytes(usage)


def _bytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _size(folder: Path) -> int:
    return sum(f.lstat().st_size for f in folder.rglob("*") if not f.is_symlink())


if __name__ == "__main__":
    main()
