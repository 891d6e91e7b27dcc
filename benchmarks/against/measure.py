"""What is measured of a row: cells, each a plain dictionary of figures."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.against.driver import Worker, WorkerError, forget_pages
from benchmarks.against.environments import Environments
from benchmarks.against.models import WORKERS, size_mb
from benchmarks.against.rows import GUIDANCE, GUIDED_STEPS, REFERENCE, ROWS, Row, Setting
from edgediff import quality

Cell = dict[str, Any]
FEW = 4  # steps of the usual picture


class Bench:
    """Starts workers and takes figures; one or two systems are loaded at a time."""

    def __init__(self, work: Path, environments: Environments, setting: Setting, rounds: int) -> None:
        self._work = work
        self._environments = environments
        self._setting = setting
        self._rounds = rounds

    def size(self, key: str) -> Cell:
        """Megabytes of the environment's packages and of the model's files."""
        row = ROWS[key]
        return {
            "install_mb": self._environments.megabytes(row.environment),
            "model_mb": size_mb([row.files(self._setting)]),
        }

    def cold(self, key: str, full: bool) -> Cell:
        """From the start of a process to a one-step picture on disk, caches empty or full.

        Empty: what the system compiled before is removed, and the kernel is asked to forget the model.
        """
        row = ROWS[key]
        cache = row.kept(self._setting, key)
        runs = 1 if row.slow or not full else 2
        seconds, peaks = [], []
        for _ in range(runs):
            if not full:
                shutil.rmtree(cache, ignore_errors=True)
                forget_pages([row.files(self._setting)])
            with self._worker(key, f"cold-{'full' if full else 'empty'}") as worker:
                worker.ask("load")
                reply = worker.ask("picture", steps=1, guidance=1.0, out=self._out(key, 1))
                seconds.append(reply["since_start"])
                peaks.append(reply["peak_mb"])
        return {"seconds": seconds, "peak_mb": peaks}

    @contextmanager
    def loaded(self, key: str, guided: bool = False) -> Iterator[Worker]:
        """A worker with its model loaded and, unless it is slow, one picture behind it.

        With guidance the networks are compiled for other sizes; that is kept nowhere.
        """
        with self._worker(key, "guided" if guided else "warm", guided) as worker:
            worker.ask("load")
            if not ROWS[key].slow:
                worker.ask("picture", steps=1, guidance=GUIDANCE if guided else 1.0)
            yield worker

    def passes(self, key: str, one: Worker, other: Worker, beside: str) -> Cell:
        """Passes of the denoiser in turns."""

        def take(worker: Worker) -> float:
            return statistics.median(worker.ask("pass", count=2)["seconds"])

        return self._turns(beside, lambda: take(one), lambda: take(other), self._rounds_of(key, self._rounds))

    def pictures(self, key: str, one: Worker, other: Worker, beside: str, steps: int) -> Cell:
        """Whole pictures in turns; of those the stages and the fidelity of the last."""
        stages: list[tuple[str, dict[str, Any]]] = []
        start = str(self._setting.models.start())

        def take(worker: Worker, which: str) -> float:
            reply = worker.ask(
                "picture", steps=steps, guidance=1.0, latents=start, out=self._out(which, steps)
            )
            stages.append((which, {**reply["stages"], "peak_mb": reply["peak_mb"]}))
            return float(reply["seconds"])

        rounds = self._rounds_of(key, max(1, self._rounds // 2) if steps > 1 else 1)
        cell = self._turns(beside, lambda: take(one, key), lambda: take(other, beside), rounds)
        cell["stages"] = [each for of, each in stages if of == key]
        cell["beside_stages"] = [each for of, each in stages if of == beside]
        return cell

    def guided(self, key: str) -> Cell:
        """One picture of 20 steps with guidance."""
        with self.loaded(key, guided=True) as worker:
            reply = worker.ask("picture", steps=GUIDED_STEPS, guidance=GUIDANCE)
        return {"seconds": [reply["seconds"]], "peak_mb": reply["peak_mb"], "stages": reply["stages"]}

    def fidelity(self, key: str, steps: int = FEW) -> Cell:
        """How near the last picture is to that of diffusers in float32, from the same start."""
        reference, found = Path(self._out(REFERENCE, steps)), Path(self._out(key, steps))
        if not reference.exists() or not found.exists():
            raise WorkerError(f"there is no picture of {steps} steps of {REFERENCE} and {key} yet")
        a, b = (_pixels(file) for file in (reference, found))
        cell: Cell = {"deviation": round(float(b.std()), 2)}
        if not ROWS[key].tiny:
            cell["picture_psnr_db"] = _finite(quality.psnr_db(a, b, 255))
        one, other = (file.with_suffix(".latents") for file in (reference, found))
        if one.exists() and other.exists():
            x, y = (np.fromfile(file, np.float32) for file in (one, other))
            cell["finite"] = bool(np.isfinite(y).all())
            cell["latents_psnr_db"] = _finite(quality.psnr_db(x, y))
        return cell

    def _turns(self, beside: str, one: Callable[[], float], other: Callable[[], float], rounds: int) -> Cell:
        mine: list[float] = []
        theirs: list[float] = []
        for i in range(rounds):
            order = [(one, mine), (other, theirs)]
            for take, kept in order if i % 2 == 0 else reversed(order):
                kept.append(take())
        ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
        return {"seconds": mine, "beside": beside, "beside_seconds": theirs, "ratios": ratios}

    def _rounds_of(self, key: str, rounds: int) -> int:
        return 1 if ROWS[key].slow else rounds

    def _worker(self, key: str, what: str, guided: bool = False) -> Worker:
        row: Row = ROWS[key]
        python = self._environments.python(row.environment)
        options = row.options(self._setting, key)
        if guided:
            options |= {"guidance": GUIDANCE, "cache": None}
            options["given"] = {**options.get("given", {}), "cache": False}
        return Worker(python, WORKERS / row.worker, options, self._work / "logs" / f"{key}-{what}.log")

    def _out(self, key: str, steps: int) -> str:
        folder = self._work / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder / f"{key}-{steps}.ppm")


def _pixels(file: Path) -> Any:
    return np.frombuffer(file.read_bytes().split(b"\n", 1)[1], np.uint8)


def _finite(value: float) -> float | None:
    return round(value, 2) if np.isfinite(value) else None
