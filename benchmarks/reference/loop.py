"""What all phases of training share: a setting, a budget, a loop that survives a stop, and a log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.machine import card

PAUSE = 10.0  # seconds; what a step takes beyond this (compiling, a sleeping machine) is not counted


@dataclass(frozen=True, slots=True)
class Setting:
    """What all stages of a run have in common."""

    work: Path
    size: int = 64
    device: str = "cpu"
    start: Path | None = None  # holds checkpoint/ and student/; None: from scratch
    compiled: bool = False
    batch: int | None = None  # None: each phase's own
    pictures: int = 61_440  # in the cached data set
    save_every: float = 30.0


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to train: seconds, or steps, which make a run repeatable to the bit."""

    amount: float
    unit: str = "seconds"

    def share(self, steps: int, seconds: float) -> float:
        """The share that is spent; 1 or more: nothing is left."""
        return (seconds if self.unit == "seconds" else steps) / self.amount if self.amount > 0 else 1.0

    def part(self, share: float, most: float = math.inf) -> Budget:
        """A share of it, and not more than ``most`` seconds."""
        amount = self.amount * share
        return replace(self, amount=min(amount, most) if self.unit == "seconds" else amount)

    def without(self, other: Budget) -> Budget:
        """What another part leaves."""
        return replace(self, amount=self.amount - other.amount)


class Part(Protocol):
    """Whatever has a state: networks, optimisers, averages."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def run(
    path: Path,
    parts: Mapping[str, Part],
    budget: Budget,
    step: Callable[[int, float], Mapping[str, Tensor]],
    batch: int,
    save_every: float = 30.0,
) -> None:
    """Call ``step(number, share of the budget spent)`` until the budget is spent.

    The state of ``parts`` is read from ``path`` where it exists, and saved there from time to time and at the
    end. What ``step`` measures is averaged and printed.
    """
    fresh, steps, seconds = not path.exists(), 0, 0.0
    if not fresh:
        held = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(held[name])
        steps, seconds = held["steps"], held["seconds"]

    def save() -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        counts = {"steps": steps, "seconds": seconds, "samples": steps * batch}
        save_state(path, {**state, **counts})

    saved, told, seen = -1 if fresh else steps, time.monotonic(), []
    while (share := budget.share(steps, seconds)) < 1:
        began = time.monotonic()
        seen.append(step(steps, share))
        steps += 1
        seconds += min(PAUSE, time.monotonic() - began)
        if time.monotonic() - told >= save_every:
            means = {name: torch.stack([one[name] for one in seen]).nanmean().item() for name in seen[0]}
            said = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            print(f"{path.stem}: {seconds:.0f} s, step {steps}  {said}", flush=True)
            save()
            saved, told, seen = steps, time.monotonic(), []
    if steps > saved:
        save()


def spent(path: Path) -> dict[str, Any]:
    """Steps, seconds and samples of a saved state."""
    held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {name: held[name] for name in ("steps", "seconds", "samples")}


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state so that a stop at any moment leaves a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def machine(device: str = "cpu") -> dict[str, Any]:
    """The machine that does the work."""
    found = {**card(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return {**found, "processor": torch.cuda.get_device_name()} if device.startswith("cuda") else found


def log(path: Path, stage: str, entry: Mapping[str, Any], device: str = "cpu") -> None:
    """Append what a stage did to the training log, one line for each."""
    book = json.loads(path.read_text()) if path.exists() else []
    book.append({"stage": stage, **entry, "machine": machine(device), "ended": time.strftime("%Y-%m-%d")})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(line) for line in book) + "\n]\n")
