"""Bundles draw in turns, each in a process of its own, so that one is in memory at a time.

A slow moment of the machine then falls on all of them. Turn r of R draws each R-th picture, so more turns
cost no more pictures, only more loading; every other round goes through the bundles backwards.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff import errors
from edgediff.compare.asked import Asked, Entry
from edgediff.errors import EdgediffError, ResourceError

Say = Callable[[str], None]
# The child looks for modules where this process does; -c would put its working folder first.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from edgediff.compare import worker; worker.main()"


@dataclass(slots=True)
class Drawn:
    """What one bundle drew, picture by picture, and what that took.

    ``pictures``: 8 bits, (H, W, 3). ``latents``: as the last step left them. ``seconds``: of every drawing,
    from the prompt to pixels. ``ready_s``: from opening the bundle to the end of a first step and decoding,
    turn by turn. ``peak_rss_bytes``: the most of all turns; None where the system does not say.
    """

    pictures: list[NDArray[np.uint8]] = field(default_factory=list)
    latents: list[NDArray[np.float32]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    peak_rss_bytes: int | None = None
    graphs: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)


def draw(asked: Asked, options: Mapping[str, Any], say: Say | None = None) -> list[Drawn]:
    """Draw all pictures with all bundles.

    Args:
        options: ``device``, ``runtime`` and ``threads`` of :class:`edgediff.Pipeline`.
        say: told in a line what begins.

    Raises:
        EdgediffError: what a bundle's process raised, with the bundle's name.
        ResourceError: a process ended without an answer, as one does that the system killed for its memory.
    """
    found = [Drawn() for _ in asked.entries]
    held: list[dict[int, Any]] = [{} for _ in asked.entries]
    with tempfile.TemporaryDirectory(prefix="edgediff-compare-") as scratch:
        for turn, which, own in _turns(asked):
            entry = asked.entries[which]
            if say is not None:
                count = f"{len(own)} picture{'s' * (len(own) > 1)}"
                say(f"turn {turn + 1} of {asked.rounds}: {entry.letter} ({entry.name}), {count}")
            file = Path(scratch) / "drawn.npz"
            answer = _asked(entry, {
                "bundle": str(entry.bundle.path), "options": dict(options), "arguments": asked.arguments,
                "draws": [asked.draws[i] for i in own], "file": str(file),
            })  # fmt: skip
            with np.load(file, allow_pickle=False) as arrays:
                both = zip(arrays["pictures"], arrays["latents"], strict=True)
                held[which] |= {i: pair for i, pair in zip(own, both, strict=True) if i not in held[which]}
            _noted(found[which], answer)
    for drawn, pairs in zip(found, held, strict=True):
        drawn.pictures = [pairs[i][0] for i in range(len(asked.draws))]
        drawn.latents = [pairs[i][1] for i in range(len(asked.draws))]
    return found


def _turns(asked: Asked) -> Iterator[tuple[int, int, list[int]]]:
    """Yield number, bundle and pictures of each turn; with fewer pictures than turns some are drawn again."""
    count = len(asked.draws)
    for turn in range(asked.rounds):
        own = list(range(turn, count, asked.rounds)) or [turn % count]
        order = range(len(asked.entries))
        for which in order if turn % 2 == 0 else reversed(order):
            yield turn, which, own


def _noted(drawn: Drawn, answer: dict[str, Any]) -> None:
    drawn.seconds += answer["seconds"]
    drawn.ready_s.append(answer["ready_s"])
    peaks = [p for p in (drawn.peak_rss_bytes, answer["peak_rss_bytes"]) if p is not None]
    drawn.peak_rss_bytes = max(peaks, default=None)
    drawn.graphs = answer["graphs"]
    drawn.warnings |= dict.fromkeys(answer["warnings"])


def _asked(entry: Entry, order: dict[str, Any]) -> dict[str, Any]:
    """Let a process of its own do an order and return its answer."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *sys.path],
        input=json.dumps(order), capture_output=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2][:300] or "it said nothing; was memory short?"
        raise ResourceError(
            f"{entry.name}: the process that drew with it ended with status {done.returncode}: {last}"
        ) from None
    if "error" in answer:
        kind = getattr(errors, answer["error"]["kind"], EdgediffError)
        raise kind(f"{entry.name}: {answer['error']['message']}")
    return answer
