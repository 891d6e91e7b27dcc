"""One picture as `edgediff run` draws it, from the prompt to a PNG's bytes, with the time of each part."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

from edgediff import chunks, media, tasks
from edgediff.bench.watching import Watching
from edgediff.pipeline import Pipeline
from edgediff.sampler import Array

STEPPED = ("denoiser", "controlled_denoiser", "control")
"""Roles that run in every step; ``control_2`` and further ones do as well."""
_SAME = 1e-6  # seconds: a time and itself, moved to another zero and back


def opened(order: Mapping[str, Any]) -> Pipeline:
    """Open the order's bundle with its options."""
    return Pipeline(order["bundle"], **order["options"])


def asked_of(pipe: Pipeline, order: Mapping[str, Any]) -> tasks.Request:
    """Check the order's call; every picture that it draws has the same seed."""
    return tasks.checked(pipe.bundle, order["prompt"], **order["arguments"])


def short(pipe: Pipeline, asked: tasks.Request, watching: Watching) -> None:
    """Load every graph and run each once: one step, and its decoding."""
    forget(pipe)
    with watching.stage("warm up"):
        steps = pipe.walk(asked)
        first = next(steps)
        steps.close()  # type: ignore[attr-defined]  # it is a generator, and holds the pipeline until it ends
        _pictures(pipe, asked, first.clean, watching)


def drawn(pipe: Pipeline, asked: tasks.Request, watching: Watching) -> dict[str, Any]:
    """Draw a picture (or a batch), and say in seconds what each part of it took.

    ``picture`` is the whole; ``texts`` each run of a text encoder; ``steps`` are objects with the time of
    each step, ``took``, and of the graphs in it, ``roles``; ``decoders`` is each run of what decodes;
    ``post`` is the rest from latents to PNG. ``loads`` is what loading took where graphs are loaded again for
    each picture, as a budget for memory makes it; no other part counts that.
    """
    forget(pipe)
    first, loaded = len(watching.passes), len(watching.loads)
    with watching.stage("picture"):
        began = time.perf_counter()
        x, ends = _walked(pipe, asked, watching, first)
        before = len(watching.passes)
        after = time.perf_counter()
        _pictures(pipe, asked, x, watching)
        ended = time.perf_counter()
    own = watching.passes[first:before]
    decoders = [took for _, _, _, took in watching.passes[before:]]
    loads = watching.loads[loaded:]
    late = sum(took for at, took in loads if at >= after - watching.epoch)
    return {
        "picture": ended - began,
        "texts": [[role, took] for role, _, _, took in own if not stepped(role)],
        "steps": [_step(own, loads, a, b) for a, b in itertools.pairwise(ends)],
        "decoders": [[role, took] for role, _, _, took in watching.passes[before:]],
        "post": ended - after - sum(decoders) - late,
        "loads": sum(took for _, took in loads),
        "passes": watching.passes[first:],
    }


def forget(pipe: Pipeline) -> None:
    """Drop what earlier pictures left, so that each encodes its prompt."""
    pipe._parts.memory.clear()


def tokenized(pipe: Pipeline, asked: tasks.Request) -> float | None:
    """Return the seconds that the call's texts take to become numbers; None where a bundle reads none."""
    text, words = pipe.bundle.text, asked.call.texts
    if text is None:
        return None
    began = time.perf_counter()
    for encoder in text.encoders:
        chunks.plain(pipe._parts.tokenizer(encoder), [*words.negatives, *words.prompts], "prompt")
    return time.perf_counter() - began


def _walked(
    pipe: Pipeline, asked: tasks.Request, watching: Watching, first: int
) -> tuple[Array, list[float]]:
    """The last latents, and when the first step began and each step ended."""
    x: Array | None = None
    ends: list[float] = []
    began = time.perf_counter()
    for step in pipe.walk(asked):
        now = time.perf_counter()
        if not ends:
            starts = [at for role, _, at, _ in watching.passes[first:] if stepped(role)]
            ends.append(min(starts) + watching.epoch if starts else began)
            watching.between("prepare", began, ends[0])
        watching.between(f"step {len(ends)}", ends[-1], now)
        ends.append(now)
        x = step.x
    assert x is not None  # a schedule has at least one hop
    return x, [at - watching.epoch for at in ends]


def _pictures(pipe: Pipeline, asked: tasks.Request, x: Array, watching: Watching) -> None:
    saving = asked.call.savings
    with watching.stage("decode"):
        decoded = pipe.decode(x, "np", decoder=saving.decoder, tile_decode=saving.tile)
        unit = tasks.finished(asked, decoded)
    with watching.stage("post"):
        for image in media.to_pil(unit):
            media.encoded(image, "PNG")


def stepped(role: str) -> bool:
    """Say whether a graph runs in every step."""
    return role.startswith(STEPPED)


def _step(passes: list[Any], loads: list[tuple[float, float]], began: float, ended: float) -> dict[str, Any]:
    inside = [(role, took) for role, _, at, took in passes if began - _SAME <= at < ended and stepped(role)]
    roles: dict[str, float] = {}
    for role, took in inside:
        roles[role] = roles.get(role, 0.0) + took
    loading = sum(took for at, took in loads if began <= at < ended)
    return {"took": ended - began - loading, "roles": roles}
