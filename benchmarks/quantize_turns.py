"""Seconds of a picture and of a denoiser's pass, several bundles in turns; peak memory of each alone."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROMPT = "a red circle to the left of a blue square on a white background"


def in_turns(bundles: Mapping[str, Path], rounds: int, steps: int, threads: int) -> dict[str, Any]:
    """Draw one picture with every bundle, ``rounds`` times, the order reversed each round."""
    import edgediff

    pipes = {name: edgediff.load(path, threads=threads) for name, path in bundles.items()}
    pictures: dict[str, list[float]] = {name: [] for name in pipes}
    passes: dict[str, list[float]] = {name: [] for name in pipes}
    for i in range(-2, rounds):  # two rounds before any is counted
        for name in list(pipes) if i % 2 == 0 else list(reversed(pipes)):
            began = time.perf_counter()
            pipes[name](PROMPT, seed=0, num_inference_steps=steps)
            if i >= 0:
                pictures[name].append(time.perf_counter() - began)
                passes[name].append(pipes[name].timings["denoiser"] / steps)
    first = next(iter(pipes))
    return {
        name: {
            "picture_s": spread(pictures[name]),
            "pass_s": spread(passes[name]),
            "pass_ratio": spread([a / b for a, b in zip(passes[name], passes[first], strict=True)]),
        }
        for name in pipes
    }


def alone(bundle: Path, steps: int, threads: int) -> dict[str, Any]:
    """Return load seconds and peak resident megabytes of a process that draws one picture."""
    command = [sys.executable, "-m", "benchmarks.quantize_turns", str(bundle), str(steps), str(threads)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest."""
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(number, 5) for name, number in numbers.items()}


def peak_mb() -> int:
    """Return this process's largest resident set so far, in megabytes.

    Linux keeps what ``getrusage`` says across exec, so that a child would show its parent's size: the
    high-water mark of its own memory is read there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) * 1024 / 1e6)
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used * (1 if sys.platform == "darwin" else 1024) / 1e6)


def main() -> None:
    """Draw one picture with the bundle of the first argument and print one JSON object."""
    import edgediff

    bundle, steps, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    pipe = edgediff.load(bundle, threads=threads)
    pipe(PROMPT, seed=0, num_inference_steps=steps)
    print(json.dumps({"load_s": round(pipe.timings["load"], 3), "peak_rss_mb": peak_mb()}))


if __name__ == "__main__":
    main()
