"""One visit of :mod:`benchmarks.sweeps`: seconds at each value of one sweep, in a process of its own.

``python -m benchmarks.sweeps_cell JSON`` prints one JSON object. The library is used as it comes: a graph is
loaded for the sizes of the call where the device asks for that, and loading is counted apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import edgediff
from benchmarks.quantize_turns import PROMPT, peak_mb
from edgediff.pipeline import Pipeline
from edgediff.runtime import Tensor

SMALL = 256  # pixels of a side, where the size is not what is swept
_MOST, _SECONDS = 5, 4.0  # passes of a value, and when no more of them begin
SWEEPS = {"pixels": "a pass of the denoiser", "batch": "a pass of the denoiser", "steps": "a picture"}


def measured(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Run a process of its own that measures what is asked for."""
    command = [sys.executable, "-m", "benchmarks.sweeps_cell", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-1500:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Measure ``values`` of the sweep ``sweep``, up and then down, with the bundle, device and precision."""
    began = time.perf_counter()
    pipe = edgediff.load(
        asked["bundle"], device=asked["device"], precision=asked["precision"], threads=asked["threads"],
        verify=False,
    )  # fmt: skip
    draw = _picture if asked["sweep"] == "steps" else _pass
    cells = {}
    for value in asked["values"]:
        once = draw(pipe, asked["sweep"], value)
        first, _ = _timed(once)  # loads what is not loaded, and touches every page
        seconds: list[float] = []
        busy: list[float] = []
        while len(seconds) < 2 or (len(seconds) < _MOST and sum(seconds) < _SECONDS):
            wall, processor = _timed(once)
            seconds.append(round(wall, 5))
            busy.append(round(processor, 5))
        cells[str(value)] = {"seconds": seconds, "processor_seconds": busy, "first_s": round(first, 3)}
    info = pipe.infos()["denoiser"]
    ran = {"provider": info.provider, "profile": info.profile, "precision": info.precision}
    pipe.close()
    return {
        "cells": cells,
        "ran": ran,
        "peak_rss_mb": peak_mb(),
        "took_s": round(time.perf_counter() - began, 1),
    }


def _timed(once: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and those of processors, which other work on the machine changes little."""
    began, worked = time.perf_counter(), time.process_time()
    once()
    return time.perf_counter() - began, time.process_time() - worked


def _picture(pipe: Pipeline, sweep: str, steps: int) -> Callable[[], object]:
    """Draw a small picture with so many steps and no guidance, from the prompt to pixels."""
    del sweep
    pipe._parts.memory.clear()

    def once() -> object:
        pipe._parts.memory.clear()  # so that each picture encodes its prompt
        return pipe(
            PROMPT, seed=0, num_inference_steps=steps, guidance_scale=1.0, height=SMALL, width=SMALL,
            output_type="np",
        )  # fmt: skip

    return once


def _pass(pipe: Pipeline, sweep: str, value: int) -> Callable[[], object]:
    """Run the denoiser once, at so many pixels or for so many pictures."""
    side, batch = (value, 1) if sweep == "pixels" else (SMALL, value)
    pipe._parts.expect({"height": side, "width": side})
    bundle = pipe.bundle
    tokens = 1 if bundle.text is None else bundle.text.length
    rng = np.random.default_rng(0)
    given: dict[str, Tensor] = {}
    for spec in pipe._parts._spec("denoiser").inputs:
        if spec.name == "timestep":
            whole = [dim if isinstance(dim, int) else batch for dim in spec.dims]
            given[spec.name] = np.full(whole, 500, spec.dtype)
            continue
        inner = [side // bundle.latents.downscale.get("height", 8)] * 2 if len(spec.dims) == 4 else [tokens]
        wanted = [batch, *inner] if len(spec.dims) == 3 else [batch, 0, *inner]
        shape = [dim if isinstance(dim, int) else wanted[i] for i, dim in enumerate(spec.dims)]
        given[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    return lambda: pipe._parts.run("denoiser", given)


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
