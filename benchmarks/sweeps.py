"""How cost grows with pixels, batch and steps.

``python -m benchmarks.sweeps --config NAME BUNDLE DEVICE PRECISION [--config ...]``; PRECISION ``-`` is the
device's own. Three sweeps: a pass of the denoiser at 256 to 1024 pixels, one for 1 to 8 pictures at 256, and
whole pictures of 1 to 8 steps at 256 (no guidance). Every configuration goes through every sweep in each
round, in a process of its own, the order reversed every other round. What is done is stored at once, so
that the program can be stopped, or stop itself after ``--limit`` seconds, and go on later; it says how much
is left.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import card
from benchmarks.sweeps_cell import SMALL, SWEEPS, measured
from benchmarks.sweeps_fit import PROCESSOR, WALL, fits, medians

RESULTS = Path(__file__).parent / "results" / "sweeps.json"
VALUES = {"pixels": [256, 384, 512, 640, 768, 1024], "batch": [1, 2, 4, 8], "steps": [1, 2, 4, 8]}
ROUNDS = 3
LEAST = 3  # amounts, or there is nothing to fit


def main() -> None:
    """Measure what is missing, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", nargs=4, action="append", required=True,
                        metavar=("NAME", "BUNDLE", "DEVICE", "PRECISION"))  # fmt: skip
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--sweep", choices=list(SWEEPS), action="append", help="only these")
    for name, values in VALUES.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", default=values)
    parser.add_argument(
        "--chunk", type=int, default=99, help="values of a visit; fewer take less time at once"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--limit", type=float, default=float("inf"), help="begin nothing after so many seconds"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    began, left = time.monotonic(), 0
    for key, asked in _visits(options):
        record = _read(options.out)
        if _done(record["visits"].get(key, []), asked):
            continue
        if left or time.monotonic() - began > options.limit:
            left += 1
            continue
        visit = measured(asked)
        record["machine"], record["threads"] = card(), options.threads
        record["visits"].setdefault(key, []).append(
            {"round": asked["round"], **{k: v for k, v in visit.items() if k != "ran"}}
        )
        name, _, sweep = key.partition("/")
        record["configs"][name] = {
            "bundle": Path(asked["bundle"]).name, "device": asked["device"],
            "precision": asked["precision"], "ran": visit["ran"],
        }  # fmt: skip
        record["what"] = {**SWEEPS, "side_where_fixed": SMALL}
        _write(options.out, record)
        print(
            f"round {asked['round'] + 1} {name} {sweep}: {visit['took_s']} s, {visit['peak_rss_mb']} MB",
            flush=True,
        )
    record = _read(options.out)
    _summed_up(record)
    _write(options.out, record)
    print(f"{left} visits left" if left else json.dumps(record[WALL]["fits"], indent=1))


def _visits(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything that is to be measured, in the order of its measuring."""
    for number in range(options.rounds):
        configs = options.config if number % 2 == 0 else options.config[::-1]
        for sweep in options.sweep or SWEEPS:
            for name, bundle, device, precision in configs:
                every = getattr(options, sweep)
                for i in range(0, len(every), options.chunk):
                    yield f"{name}/{sweep}", {
                        "round": number, "sweep": sweep, "values": every[i : i + options.chunk],
                        "bundle": bundle, "device": device, "threads": options.threads,
                        "precision": None if precision == "-" else precision,
                    }  # fmt: skip


def _done(visits: list[dict[str, Any]], asked: dict[str, Any]) -> bool:
    """Whether every value was measured in that round."""
    found = {amount for visit in visits if visit["round"] == asked["round"] for amount in visit["cells"]}
    return {str(value) for value in asked["values"]} <= found


def _summed_up(record: dict[str, Any]) -> None:
    """Add medians and fits of what was measured so far."""
    for clock in (WALL, PROCESSOR):
        record[clock] = {"medians": {}, "fits": {}}
    for key, visits in record["visits"].items():
        sweep = key.rpartition("/")[2]
        several = len({amount for visit in visits for amount in visit["cells"]}) >= LEAST
        for clock in (WALL, PROCESSOR):
            found = medians(visits, clock)
            record[clock]["medians"][key] = {f"{amount:g}": row for amount, row in found.items()}
            if several:
                record[clock]["fits"][key] = fits(sweep, visits, clock)


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"configs": {}, "visits": {}}
    return found


def _write(file: Path, record: dict[str, Any]) -> None:
    """Replace the file at once, so that stopping the program costs at most one visit."""
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    beside.replace(file)


if __name__ == "__main__":
    main()
