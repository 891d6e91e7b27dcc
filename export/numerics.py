"""Whether a graph's values fit half precision, shown on the bundle's own trajectory.

Weights that are stored in half precision were checked while they were written. What they make inside the
network is known only by running it: a picture is drawn in float32, and every value is looked at. As a
program, ``python -m edgediff.export.numerics BUNDLE [BYTES]``, it prints one JSON object, so that a caller
can have it in a process of its own, with a bound on its memory.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgediff.bundle import Bundle
from edgediff.errors import EdgediffError
from edgediff.export.quantize.scenes import gradient, signed
from edgediff.export.quantize.trajectory import Watched, asked, draw, encode

Array = np.ndarray[Any, Any]
LARGEST = 65504.0  # of IEEE 754 binary16
SPARE = 2.0
_PROMPT = "a photograph of an astronaut riding a horse on the moon, highly detailed"
_STEPS = 4
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """The largest magnitude seen in a role's graph, where it was, and what half precision cannot hold."""

    role: str
    largest: float
    where: str
    over: tuple[str, ...]


def look(bundle: Bundle, steps: int = _STEPS, report: Callable[[str], None] | None = None) -> list[Finding]:
    """Draw one picture in ``steps`` steps and look at every value of every graph that has a part in it.

    Weights are read a part at a time, so that memory stays near that of the largest layer. A value counts as
    too large when half precision could not hold ``SPARE`` times it.

    Raises:
        EdgediffError: the bundle cannot be drawn with.
    """
    seen: dict[str, dict[str, float]] = {}
    current: dict[str, float] = {}

    def observe(name: str, value: Array) -> None:
        if value.dtype.kind == "f" and value.size:
            reached = float(np.abs(value).max())
            current[name] = max(current.get(name, 0.0), np.inf if np.isnan(reached) else reached)

    # The portable form has every value by itself; fused ones compute some where nobody sees them.
    bundle = replace(bundle, profiles={"cpu": ("portable",)})

    def seen_pass(role: str, inputs: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
        kept = seen.setdefault(role, {})
        for name, reached in current.items():
            kept[name] = max(kept.get(name, 0.0), reached)
        current.clear()
        if report is not None:
            report(f"looked at a pass of {role}")
        return outputs

    parts = Watched(bundle, "cpu", "streamed", {"observe": observe}, verify=False)
    parts.seen = seen_pass
    _draw(bundle, parts, steps)
    return [_finding(role, values) for role, values in seen.items()]


def _draw(bundle: Bundle, parts: Watched, steps: int) -> None:
    picture = gradient(bundle.defaults.size)
    fewer = steps if steps < bundle.defaults.num_inference_steps else None
    for _ in draw(parts, [asked(bundle, [_PROMPT], 0, fewer, picture)]):
        pass
    if "encoder" in bundle.components:
        encode(parts, [signed(picture)])


def _finding(role: str, values: Mapping[str, float]) -> Finding:
    where = max(values, key=lambda name: values[name])
    over = [f"{name} reaches {reached:.3g}" for name, reached in values.items() if reached * SPARE > LARGEST]
    return Finding(role, values[where], where, tuple(over[:_LISTED]))


def main() -> None:
    """Look at the bundle named by the first argument; the second, if any, bounds the memory in bytes."""
    warnings.simplefilter("ignore")
    if len(sys.argv) > 2:
        with contextlib.suppress(ImportError):  # Windows has no such limit
            import resource

            limit = int(sys.argv[2])
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        found = look(Bundle.open(Path(sys.argv[1])), report=_say)
        told: dict[str, object] = {"findings": [asdict(each) for each in found]}
    except EdgediffError as error:
        told = {"error": str(error)}
    except MemoryError:
        told = {"error": "the memory that it was allowed ran out; allow more"}
    print(json.dumps(told))


def _say(line: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
