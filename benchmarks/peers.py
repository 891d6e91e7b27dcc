"""edgediff beside other systems: ``python -m benchmarks.peers``. Same checkpoint, prompt, size and sampler.

Each system runs in a virtual environment of its own (pins: ``benchmarks/against/requirements``) and reads
the same full-size checkpoint of SD 1.5's shape with random weights, converted by its own tools. Everything is
made under ``--work`` when it is first needed and used again afterwards. Figures are stored one by one in
``--results``; cells that are there are not taken again unless ``--again`` is given.

``--prepare`` makes environments and conversions only, ``--table`` writes docs/peers.md and measures nothing.
Two systems at a time are loaded and timed in turns, one of them stopped while the other works.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.against import bundles, page
from benchmarks.against.driver import Worker, WorkerError
from benchmarks.against.environments import Environments
from benchmarks.against.measure import FEW, Bench, Cell
from benchmarks.against.models import Models
from benchmarks.against.record import Record
from benchmarks.against.rows import REFERENCE, ROWS, Setting

ROOT = Path(__file__).parents[1]
CELLS = ("size", "cold", "pass", "pictures", "guided", "fidelity")


def main() -> None:
    """Prepare, measure, write."""
    options = _options()
    if options.table:
        page.write(options.results)
        return
    work = options.work.absolute()
    environments = Environments(work)
    models = Models(work, environments, options.checkpoint)
    given = dict(each.split("=", 1) for each in options.bundle)
    setting = Setting(models, bundles.finder(models, given), work / "caches")
    keys = [key for key in ROWS if not options.only or key in options.only]
    record = Record(options.results)
    if not options.keep_wheel and any(ROWS[key].environment == "edgediff" for key in keys):
        environments.own_wheel()
    keys = [key for key in keys if _prepared(key, environments, setting, record)]
    if options.prepare:
        return
    run = Run(Bench(work, environments, setting, options.rounds), record, options.again)
    run.all(keys, options.cells or list(CELLS))


class Run:
    """Takes the cells that are missing, row by row."""

    def __init__(self, bench: Bench, record: Record, again: bool) -> None:
        self._bench = bench
        self._record = record
        self._again = again

    def all(self, keys: list[str], cells: list[str]) -> None:
        """Alone first (sizes, cold starts), then beside each baseline, which stays loaded, guided last."""
        for key in keys:
            if "size" in cells:
                self._take(key, "size", lambda key=key: self._bench.size(key))
            if "cold" in cells and ROWS[key].cold:
                if not ROWS[key].slow:
                    self._take(key, "cold_empty", lambda key=key: self._bench.cold(key, False))
                self._take(key, "cold_full", lambda key=key: self._bench.cold(key, True))
        for beside in dict.fromkeys(name for key in keys for name in (ROWS[key].beside, *ROWS[key].also)):
            self._beside(beside, keys, cells)
        for key in keys:
            if "guided" in cells and ROWS[key].guided:
                self._take(key, "picture_20", lambda key=key: self._bench.guided(key))
            if "fidelity" in cells and key != REFERENCE:
                self._take(key, "fidelity", lambda key=key: self._bench.fidelity(key))

    def _beside(self, beside: str, keys: list[str], cells: list[str]) -> None:
        wanted = {key: self._missing(key, beside, cells) for key in keys if key != beside}
        wanted = {key: names for key, names in wanted.items() if names}
        if not wanted:
            return
        try:
            with self._bench.loaded(beside) as other:
                for key, names in wanted.items():
                    self._pair(key, names, other, beside)
        except WorkerError as error:
            print(f"{beside}: {error}", file=sys.stderr)

    def _missing(self, key: str, beside: str, cells: list[str]) -> list[str]:
        row = ROWS[key]
        names: list[str] = []
        if beside == row.beside:
            # The binding of stable-diffusion.cpp ends no call early: its passes are read off its pictures.
            names += ["pass"] if "pass" in cells and row.worker != "on_sdcpp.py" and not row.tiny else []
            names += [f"picture_{FEW}"] if "pictures" in cells else []
            names += ["picture_1"] if "pictures" in cells and not row.slow else []
        elif beside in row.also:
            names += [f"pass_beside_{beside}"] if "pass" in cells else []
        return [name for name in names if self._again or not self._record.has(key, name)]

    def _pair(self, key: str, names: list[str], other: Worker, beside: str) -> None:
        try:
            with self._bench.loaded(key) as one:
                for name in names:
                    self._take(key, name, lambda name=name: self._cell(key, name, one, other, beside), True)
        except WorkerError as error:
            self._failed(key, names[0], error)

    def _cell(self, key: str, name: str, one: Worker, other: Worker, beside: str) -> Cell:
        if name.startswith("pass"):
            return self._bench.passes(key, one, other, beside)
        steps = int(name.rpartition("_")[2])
        cell = self._bench.pictures(key, one, other, beside, steps)
        if "passes" in cell["stages"][0] and steps == FEW:
            self._record.add(key, _about(key), "pass", passes_of(cell, steps))
        return cell

    def _take(self, key: str, cell: str, take: Callable[[], Cell], again: bool = False) -> None:
        if not (again or self._again) and self._record.has(key, cell):
            return
        began = time.perf_counter()
        try:
            figures = take()
        except WorkerError as error:
            self._failed(key, cell, error)
            return
        self._record.add(key, _about(key), cell, figures)
        print(f"{key} {cell}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    def _failed(self, key: str, cell: str, error: WorkerError) -> None:
        self._record.add(key, _about(key), cell, {"error": str(error)})
        print(f"{key} {cell}: {error}", file=sys.stderr, flush=True)


def passes_of(cell: Cell, steps: int) -> Cell:
    """The passes inside pictures that were drawn in turns, of systems that end no call before its picture."""
    mine = [seconds for each in cell["stages"] for seconds in each["passes"]]
    theirs = [each["denoiser"] / steps for each in cell["beside_stages"]]
    ratios = [
        statistics.median(a["passes"]) / (b["denoiser"] / steps)
        for a, b in zip(cell["stages"], cell["beside_stages"], strict=True)
    ]
    return {"seconds": mine, "beside": cell["beside"], "beside_seconds": theirs, "ratios": ratios,
            "of": "pictures"}  # fmt: skip


def _about(key: str) -> dict[str, object]:
    row = ROWS[key]
    return {"label": row.label, "peer": row.peer, "tiny": row.tiny}


def _prepared(key: str, environments: Environments, setting: Setting, record: Record) -> bool:
    """Make a row's environment and its form of the checkpoint; a row that cannot be made is left out."""
    row = ROWS[key]
    try:
        environments.python(row.environment)
        row.options(setting, key)
    except SystemExit as error:
        record.add(key, _about(key), "size", {"error": str(error)})
        print(f"{key}: {error}", file=sys.stderr)
        return False
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("peers"), help="environments, checkpoints, caches")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "peers.json")
    parser.add_argument("--checkpoint", type=Path, help="a folder that benchmarks.full_size made")
    parser.add_argument(
        "--bundle",
        action="append",
        default=[],
        metavar="FORM=FOLDER",
        help="fp16, int8 or reduced, made before",
    )
    parser.add_argument("--only", nargs="+", choices=sorted(ROWS), help="rows")
    parser.add_argument("--cells", nargs="+", choices=CELLS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="take cells again that are there")
    parser.add_argument("--keep-wheel", action="store_true", help="do not install this checkout anew")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
