"""What a run takes inside a budget: expected and measured, each in a process of its own.

``python -m benchmarks.memory BUNDLE --budgets 1GB,1.5GB`` draws a picture within each budget, and says what
the plan expected, what the process took at most (VmHWM, mapped files included), and the plan itself.
``--factors`` measures instead, for each role alone, what :mod:`edgediff.memory.needs` estimates: what its
weights take loaded and while they load, and what it computes with. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgediff import footprint
from edgediff import runtime as runtimes
from edgediff.bundle import Bundle
from edgediff.machine import peak_rss
from edgediff.memory import heap, needs

_ROLES = ("text_encoder", "encoder", "denoiser", "decoder", "tiny_decoder")


def drawn(bundle: str, budget: str, rest: list[str]) -> dict[str, Any]:
    """Draw within a budget in a process of its own; the record of ``edgediff run --json``, or its error."""
    command = [
        sys.executable,
        "-m",
        "edgediff",
        "run",
        "a red circle",
        "-m",
        bundle,
        "--json",
        "-q",
        "-s",
        "0",
    ]
    command += ["--memory", budget, "--overwrite", "-o", "/dev/shm/edgediff-memory.png", "--no-cache", *rest]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    return {"budget": budget, "wall_s": round(time.perf_counter() - began, 2), **told}


def factors(path: str, role: str, stretch: int, threads: int) -> dict[str, Any]:
    """Load a role and run it once, in this process; bytes above what the process took before."""
    bundle = Bundle.open(path)
    spec = bundle.graph(role, "onnxruntime", "cpu")
    runtimes.find("onnxruntime").devices()
    heap.hold()
    before = heap.resident(0)
    options = {"threads": threads, "stretch": stretch, "resident": None}
    graph: Any = runtimes.find("sequence").load(spec, bundle.path / spec.file, "cpu", options, {})
    loads, stays = (peak_rss() or 0) - before, heap.resident(0) - before
    inputs = footprint.inputs_of(bundle, role, graph.info.inputs)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # begins a new high-water mark
    began = time.perf_counter()
    graph(inputs)
    seconds = time.perf_counter() - began
    values = (peak_rss() or 0) - stays - before
    cut = needs.reader(bundle.path / spec.file)
    size = {axis: bundle.defaults.size[axis] for axis in ("height", "width")}
    if role == "denoiser":
        size = {axis: size[axis] // bundle.latents.downscale[axis] for axis in size}
    length = 77 if bundle.text is None else bundle.text.length
    stretches = cut(stretch).stretches
    held, most = 0, 0
    for each in stretches:
        most = max(most, held + needs.loads(each))
        held += needs.stays(each)
    return {
        "role": role, "form": spec.profile, "precision": spec.precision, "stretches": len(stretches),
        "weights": cut(0).weight_bytes, "loads": loads, "expected_loads": most, "stays": stays,
        "expected_stays": held, "values": values, "seconds": round(seconds, 3),
        "expected_values": needs.values(role, cut(0), 1, size, length) + max(map(needs.widened, stretches)),
    }  # fmt: skip


def main() -> None:
    """Print a table; ``--json FILE`` keeps the numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--budgets", default="")
    parser.add_argument("--factors", action="store_true")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--stretch", type=int, default=64 << 20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    asked, rest = parser.parse_known_args()
    if asked.role:
        print(json.dumps(factors(asked.bundle, asked.role, asked.stretch, asked.threads)))
        return
    found: list[dict[str, Any]] = []
    if asked.factors:
        for role in (r for r in _ROLES if r in Bundle.open(asked.bundle).components):
            command = [sys.executable, "-m", "benchmarks.memory", asked.bundle, "--role", role]
            command += ["--stretch", str(asked.stretch), "--threads", str(asked.threads)]
            found.append(
                json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            )
            _say_factors(found[-1])
    for budget in filter(None, asked.budgets.split(",")):
        found.append(drawn(asked.bundle, budget, ["-t", str(asked.threads), *rest]))
        _say_drawn(found[-1])
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _say_factors(told: dict[str, Any]) -> None:
    shown = ", ".join(
        f"{name} {told[name] / 1e6:.0f} MB (expected {told['expected_' + name] / 1e6:.0f})"
        for name in ("loads", "stays", "values")
    )
    print(f"{told['role']} {told['form']} {told['precision']}, {told['weights'] / 1e6:.0f} MB in "
          f"{told['stretches']} stretches: {shown}; {told['seconds']} s", flush=True)  # fmt: skip


def _say_drawn(told: dict[str, Any]) -> None:
    if "error" in told:
        print(f"{told['budget']}: {told['error']['message']}", flush=True)
        return
    memory, times = told["memory"], told["timings"]
    parts = ", ".join(
        f"{name} {times[name]:.1f} s" for name in ("text_encoder", "denoiser", "decoder", "load")
    )
    print(f"{told['budget']}: expected {memory['expected'] / 1e6:.0f} MB, "
          f"took {memory['peak'] / 1e6:.0f} MB; tile {memory['tile']}, "
          f"loaded in each step {memory['stretches_loaded_each_step']}; "
          f"{told['steps']} steps: {parts}; {told['wall_s']} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
