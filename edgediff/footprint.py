"""What a role's graph takes: seconds to load, seconds per pass, memory, in a process of its own.

As a program, ``python -m edgediff.footprint BUNDLE ROLE``, it prints one JSON object. The inputs have the
model's own size and a batch of one; their numbers follow the rule of :mod:`edgediff.golden`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgediff import golden
from edgediff import runtime as runtimes
from edgediff.bundle import Bundle, Dim, TensorSpec
from edgediff.errors import CheckFailed, EdgediffError, InputError, ResourceError, UnsupportedError
from edgediff.machine import peak_rss
from edgediff.parts import Parts
from edgediff.runtime import Tensor

ROUNDS = 25
_SECONDS, _LEAST = 15.0, 3  # of passes in turns: enough for a median, whatever a pass takes
_SIDE = re.compile(r"(picture_|latent_)?(height|width)(?:_([0-9]{1,3}))?")


def inputs_of(bundle: Bundle, role: str, specs: Sequence[TensorSpec]) -> dict[str, Tensor]:
    """Return inputs of a graph at the model's own size, for one result.

    Extents are known by their names: of the batch, of the text, of pictures (the encoder's, and those of
    ``picture_height``), of latents, and of latents that were halved (``height_2``).

    Raises:
        UnsupportedError: an extent has another name.
    """
    return golden.inputs({spec.name: (spec.dtype, _shape(bundle, role, spec)) for spec in specs})


def _shape(bundle: Bundle, role: str, spec: TensorSpec) -> tuple[int, ...]:
    return tuple(_extent(bundle, role, spec, dim) for dim in spec.dims)


def _extent(bundle: Bundle, role: str, spec: TensorSpec, dim: Dim) -> int:
    if isinstance(dim, int):
        return dim
    if "batch" in dim:
        return 1
    if "sequence" in dim and bundle.text is not None:
        return bundle.text.length
    if "channels" in dim:
        return bundle.latents.channels
    found = _SIDE.fullmatch(dim)
    if found is None:
        raise UnsupportedError(f"{role}: {spec.name} has an extent {dim!r}, for which there is no rule.")
    of, axis, halved = found.groups()
    pixels = bundle.defaults.size.get(axis, 64 * bundle.latents.downscale.get(axis, 8))
    if of == "picture_" or (of is None and role == "encoder"):
        return pixels
    return -(-math.ceil(pixels / bundle.latents.downscale.get(axis, 8)) // int(halved or 1))


class Loaded:
    """A role's graph, loaded alone; what it took so far is in :meth:`told`."""

    def __init__(self, bundle: Bundle, role: str, device: str = "auto", threads: int | None = None) -> None:
        self._role = role
        self._parts = Parts(bundle, device, options={"threads": threads}, verify=False)
        self._seconds: list[float] = []
        runtimes.find("onnxruntime").devices()  # what the runtime itself takes is not the graph's
        self._before = peak_rss()
        began = time.perf_counter()
        self._info = self._parts.graph(role).info
        self._load = time.perf_counter() - began
        self._inputs = inputs_of(bundle, role, self._info.inputs)

    def once(self) -> float:
        """Run the graph once; the seconds it took."""
        began = time.perf_counter()
        self._parts.run(self._role, self._inputs)
        self._seconds.append(time.perf_counter() - began)
        return self._seconds[-1]

    def told(self) -> dict[str, Any]:
        """``load_s``; ``first_s``, of the first pass, and ``passes_s``, of all others; ``peak_rss_bytes``,
        and ``base_rss_bytes``, what the process took before it loaded the graph (None where the system does
        not say)."""
        return {
            "role": self._role,
            "form": self._info.profile,
            "provider": self._info.provider,
            "load_s": self._load,
            "first_s": self._seconds[0] if self._seconds else None,
            "passes_s": self._seconds[1:],
            "peak_rss_bytes": peak_rss(),
            "base_rss_bytes": self._before,
        }


def pair(
    parent: Path,
    bundle: Path,
    role: str,
    rounds: int = ROUNDS,
    device: str = "auto",
    threads: int | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure one role of two bundles, each in a process of its own, their passes in turns.

    Both stay loaded, so that what else the machine does falls on both. There are at most ``rounds``; after
    ``_LEAST`` it ends as soon as they took ``_SECONDS``. The results are as :func:`summary` gives them.

    Raises:
        CheckFailed: one of them cannot be loaded or run; the message is its own.
    """
    with _started(parent, role, device, threads) as one, _started(bundle, role, device, threads) as other:
        spent = 0.0
        for done in range(rounds + 1):  # the first pass of each counts for neither
            if done > _LEAST and spent > _SECONDS:
                break
            spent += sum(float(_turn(each)["seconds"]) for each in (one, other))
        return summary(_ended(one)), summary(_ended(other))


def summary(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a receipt keeps: ``form``, ``load_s``, ``pass_s`` (median, smallest and largest of how many), and
    memory as :meth:`Loaded.told` says."""
    passes = told["passes_s"]
    return {
        "form": told["form"],
        "load_s": round(told["load_s"], 4),
        "pass_s": {
            "median": round(statistics.median(passes), 5),
            "min": round(min(passes), 5),
            "max": round(max(passes), 5),
            "rounds": len(passes),
        },
        "peak_rss_bytes": told["peak_rss_bytes"],
        "base_rss_bytes": told["base_rss_bytes"],
    }


Process = subprocess.Popen[str]


@contextmanager
def _started(bundle: Path, role: str, device: str, threads: int | None) -> Iterator[Process]:
    command = [sys.executable, "-m", "edgediff.footprint", str(bundle), role, "--device", device, "--turns"]
    command += [] if threads is None else ["--threads", str(threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        _answer(process)  # once it is loaded, so that the two do not load side by side
        yield process
    finally:
        process.kill()
        process.communicate()


def _turn(process: Process) -> dict[str, Any]:
    assert process.stdin is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
    except OSError:  # it ended; its answer says why
        pass
    return _answer(process)


def _ended(process: Process) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.close()
    told = _answer(process)
    process.stdin = None  # communicate would flush it
    return told


def _answer(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ResourceError("footprint: the process that measures ended without an answer; memory ran out?")
    told: dict[str, Any] = json.loads(line)
    if "error" in told:
        raise CheckFailed(str(told["error"]))
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the status is 1 where that fails, and the JSON object then has ``error``."""
    parser = argparse.ArgumentParser(prog="python -m edgediff.footprint", description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("role")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="passes after the first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--turns", action="store_true", help="run a pass for each line of standard input")
    asked = parser.parse_args(arguments)
    try:
        if asked.rounds < 1 or (asked.threads is not None and asked.threads < 1):
            raise InputError("--rounds and --threads are whole numbers of 1 or more.")
        loaded = Loaded(Bundle.open(asked.bundle), asked.role, asked.device, asked.threads)
        if asked.turns:
            _say({"loaded": True})
            for _ in sys.stdin:
                _say({"seconds": loaded.once()})
        else:
            for _ in range(asked.rounds + 1):
                loaded.once()
    except EdgediffError as error:
        _say({"error": str(error)})
        return 1
    _say(loaded.told())
    return 0


def _say(told: Mapping[str, Any]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.exit(main())
