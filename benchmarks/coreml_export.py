"""``python -m benchmarks.export coreml``: seconds, peak memory and bytes of exports to Core ML.

Each form of each model is exported in fresh processes, without a receipt and with one. A result that a check
refuses is exported again with ``--force``, and the refusal recorded; models of random weights are no measure
of quality. The peak is that of the process and of those it started, looked at twenty times a second, where
shared pages count more than once. Rows are added to the record as they are measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.full_size import make
from benchmarks.machine import card
from benchmarks.quantize_export import CHECK_FAILED, Ran, run

RESULTS = Path(__file__).parent / "results" / "coreml_export.json"
FLAGS: dict[str, tuple[str, ...]] = {
    "fp32": ("--dtype", "fp32"),
    "fp16": (),
    **{
        name: ("--quantize", name)
        for name in (
            *(f"palette-{bits}" for bits in (8, 6, 4, 2, 1)),
            "int8-weights",
            "int8",
            "mixed",
        )
    },
    **{name: ("--quantize", name, "--target", "iOS18") for name in ("palette-3", "int4-weights")},
}
"""Forms by name, and the flags that ask for them."""
RECEIPTS: dict[str, tuple[str, ...]] = {"off": ("--no-receipt",), "on": ()}
LAST_WORDS = 12  # lines of stderr that tell why an export failed


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that only this target has."""
    group = parser.add_argument_group("coreml")
    group.add_argument(
        "--forms",
        nargs="+",
        choices=list(FLAGS),
        default=["fp16", "palette-8", "palette-6", "palette-4", "mixed"],
    )
    group.add_argument("--receipts", nargs="+", choices=list(RECEIPTS), default=list(RECEIPTS))
    group.add_argument("--flags", default="", help="more flags for every export, in one text")


def main(options: argparse.Namespace) -> None:
    """Measure, and add to the record."""
    out: Path = options.out or RESULTS
    record: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"exports": {}}
    record |= {"machine": card(), "checkpoint": options.stored}
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for kind in options.models:
            folder = make(kind, Path(scratch) / kind, options.stored)
            for form in options.forms:
                for receipt in options.receipts:
                    flags = (*FLAGS[form], *RECEIPTS[receipt], *shlex.split(options.flags))
                    row = measure(folder, Path(scratch) / "out", flags, options.runs)
                    record["exports"][f"{kind}, {form}, receipt {receipt}"] = row
                    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
                    print(json.dumps(row), file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    print(out)


def measure(model: Path, out: Path, flags: Sequence[str], runs: int) -> dict[str, Any]:
    """Export ``runs`` times: the medians, what a check said, and the bytes of what was written."""
    seconds, peaks = [], []
    refused: str | None = None
    for _ in range(runs):
        made, said = export(model, out, [*flags, *(["--force"] if refused else [])])
        refused = refused or said
        seconds.append(made.seconds)
        peaks.append(made.peak_mb)
    found = sizes(out)
    shutil.rmtree(out)
    return {
        "flags": list(flags),
        "runs": runs,
        "seconds": round(statistics.median(seconds), 1),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "peak_rss_mb": max((peak for peak in peaks if peak is not None), default=None),
        "refused": refused,
        **found,
    }


def export(model: Path, out: Path, flags: Sequence[str]) -> tuple[Ran, str | None]:
    """Run ``edgediff export coreml`` in a process of its own; where a check refuses the result, again with
    ``--force``. The run that made the result, and what the check said, or None.

    Raises:
        SystemExit: it failed for another reason.
    """
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "edgediff", "export", "coreml", "-m", str(model), str(out), *flags]
    done, refused = run(command), None
    if done.code == CHECK_FAILED:
        refused = _last_words(done)
        done = run([*command, "--force"])
    if done.code != 0:
        raise SystemExit(f"{shlex.join(command)} failed with {done.code}: {_last_words(done)}")
    return done, refused


def _last_words(done: Ran) -> str:
    return "\n".join(line for line, _, _ in done.said[-LAST_WORDS:] if line)


def sizes(folder: Path) -> dict[str, Any]:
    """The bytes of a folder, and of each package in it by its name."""
    packages = {path.stem: size(path) for path in sorted(folder.rglob("*.mlpackage"))}
    return {"bytes": size(folder), "packages": packages}


def size(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
