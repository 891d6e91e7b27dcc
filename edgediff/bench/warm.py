"""The process that draws the same picture again and again, with everything loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from edgediff.bench import drawing, energy
from edgediff.bench.watching import Watching
from edgediff.machine import peak_rss
from edgediff.pipeline import Pipeline
from edgediff.runtime import GraphInfo

MOST, SECONDS, LEAST = 20, 25.0, 3
"""Pictures unless a number was asked for: so many, or what fits in so many seconds, but so many at least."""
_TEXTS = 20  # times that the prompt is tokenized: some microseconds each


def done(order: Mapping[str, Any], first: float) -> dict[str, Any]:
    """Do the order: ``warmup`` short pictures, then ``runs`` whole ones (None: see :data:`MOST`)."""
    del first
    base = peak_rss()
    watching = Watching(order["spawned"])
    with drawing.opened(order) as pipe:
        watching.over(pipe._parts)
        asked = drawing.asked_of(pipe, order)
        with watching.stage("load"):
            drawing.short(pipe, asked, watching)
        for _ in range(order["warmup"]):
            drawing.short(pipe, asked, watching)
        before, began = energy.read(), time.perf_counter()
        pictures = _repeated(lambda: drawing.drawn(pipe, asked, watching), order["runs"])
        spent, after = time.perf_counter() - began, energy.read()
        texts = [drawing.tokenized(pipe, asked) for _ in range(_TEXTS)]
        whole = peak_rss()
        with watching.exact_peaks() as peak:
            drawing.short(pipe, asked, watching)
        watching.stop()
        told = {**watching.told(), "pictures": pictures, "graphs": graphs(pipe, watching.infos)}
    found = [each for each in (whole, peak.whole) if each is not None]
    return {
        **told,
        "tokenize": [each for each in texts if each is not None],
        "base_rss_bytes": base,
        "peak_rss_bytes": max(found, default=None),
        "energy": energy.between(before, after, len(pictures), spent),
    }


def _repeated(draw: Callable[[], dict[str, Any]], runs: int | None) -> list[dict[str, Any]]:
    """Draw as often as asked, or as often as is worth the time."""
    found: list[dict[str, Any]] = []
    spent = 0.0
    while len(found) < (MOST if runs is None else runs):
        if runs is None and len(found) >= LEAST and spent > SECONDS:
            break
        found.append(draw())
        spent += found[-1]["picture"]
    return found


def graphs(pipe: Pipeline, infos: Mapping[str, GraphInfo]) -> dict[str, dict[str, Any]]:
    """What ran, by role: where, in which form, and its files with their sizes."""
    return {role: {**_facts(info), "files": _files(pipe, role)} for role, info in infos.items()}


def _facts(info: GraphInfo) -> dict[str, Any]:
    return {
        "runtime": info.runtime,
        "device": info.device,
        "provider": info.provider,
        "profile": info.profile,
        "precision": info.precision,
        "nodes": dict(info.nodes),
        "load_seconds": info.load_seconds,
    }


def _files(pipe: Pipeline, role: str) -> dict[str, int]:
    bundle, spec = pipe.bundle, pipe._parts._spec(role)
    found = bundle.admit(spec, verify=False)
    return {str(file.relative_to(bundle.path)): receipt.bytes for file, receipt in found.items()}
