"""How a system under test is spoken to: a line of JSON in, a line of JSON out, on the worker's own pipes.

A worker is a program of a few lines around one system, run by the Python of that system's environment:
``python on_x.py OPTIONS``. It answers ``load``, ``pass``, ``picture`` and ``quit``. Only the standard library
is used here, so that nothing is added to an environment, and everything a system prints goes to stderr.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

HEIGHT = WIDTH = 512
PROMPT = "a b c d e f"  # words of one letter: the same tokens under any vocabulary of CLIP's form


class Engine(Protocol):
    """A system that draws pictures; made with the row's options and nothing loaded."""

    def load(self) -> dict[str, Any]:
        """Load everything; returns what is worth knowing (versions, precision, devices)."""

    def passes(self, count: int) -> list[float]:
        """Return seconds of each of ``count`` passes of the denoiser, batch 1, in the system's own loop."""

    def picture(self, steps: int, guidance: float, latents: array.array[float] | None) -> Drawn:
        """Draw the prompt. ``latents``: standard normal start (1, 4, 64, 64) in float32, if it takes one."""


class Drawn(dict[str, Any]):
    """A picture: ``rgb`` (bytes, 512 x 512 x 3), ``latents`` (final ones, bytes of float32; absent where
    none are shown), ``stages`` (seconds by name).
    """


def serve(make: Callable[[dict[str, Any]], Engine]) -> None:
    """Answer until told to quit; an error is answered as ``{"error": ...}`` and ends the worker."""
    _end_with_parent()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = make(json.loads(sys.argv[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            reply = _answer(engine, asked)
        except BaseException as error:
            traceback.print_exc()
            out.write(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}) + "\n")
            out.flush()
            os._exit(1)
        out.write(json.dumps({**reply, "peak_mb": peak_mb()}) + "\n")
        out.flush()
        if asked["do"] == "quit":
            os._exit(0)


def _end_with_parent() -> None:
    """Have Linux end this process, stopped or not, when the one that measures ends (PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _answer(engine: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    began = time.perf_counter()
    if asked["do"] == "load":
        info = engine.load()
        return {"seconds": time.perf_counter() - began, "info": info}
    if asked["do"] == "pass":
        return {"seconds": engine.passes(asked["count"])}
    if asked["do"] == "picture":
        start = None
        if asked.get("latents"):
            start = array.array("f", Path(asked["latents"]).read_bytes())
            began = time.perf_counter()
        drawn = engine.picture(asked["steps"], asked["guidance"], start)
        if asked.get("out"):
            Path(asked["out"]).write_bytes(b"P6 %d %d 255\n" % (WIDTH, HEIGHT) + drawn["rgb"])
        seconds = time.perf_counter() - began
        if asked.get("out") and drawn.get("latents"):
            Path(asked["out"]).with_suffix(".latents").write_bytes(drawn["latents"])
        return {
            "seconds": seconds,
            "stages": drawn.get("stages", {}),
            "used_latents": drawn.get("used", True),
        }
    return {}


def peak_mb() -> float:
    """Return the most resident memory so far (VmHWM, pages of files included), the largest child's added."""
    own = 0.0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            own = int(line.split()[1]) * 1024 / 1e6
    return round(own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6, 1)
