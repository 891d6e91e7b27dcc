"""A process that draws one bundle's pictures, times each, and knows the most memory that took.

It reads one JSON object from stdin, writes pictures and latents to a file, and prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np

from edgediff import media, tasks
from edgediff.errors import EdgediffError
from edgediff.machine import peak_rss
from edgediff.pipeline import Pipeline
from edgediff.sampler import Array


def main() -> None:
    """Do what stdin asks for."""
    order = json.loads(sys.stdin.read())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = _drawn(order)
        except EdgediffError as error:
            answer = {"error": {"kind": type(error).__name__, "message": str(error)}}
    told = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning))
    print(json.dumps({**answer, "warnings": list(told)}))


def _drawn(order: dict[str, Any]) -> dict[str, Any]:
    """Draw the pictures of an order into its file and return the figures."""
    began = time.perf_counter()
    pictures, latents, seconds = [], [], []
    with Pipeline(order["bundle"], **order["options"]) as pipe:
        prompt, seed = order["draws"][0]
        _warm_up(pipe, tasks.checked(pipe.bundle, prompt, seed=seed, **order["arguments"]))
        ready = time.perf_counter() - began
        for prompt, seed in order["draws"]:
            start = time.perf_counter()
            x = _walked(pipe, tasks.checked(pipe.bundle, prompt, seed=seed, **order["arguments"]))
            picture = media.to_bytes(pipe.decode(x, "np"))[0]
            seconds.append(time.perf_counter() - start)
            pictures.append(picture)
            latents.append(x[0])
        infos = pipe.infos()
    np.savez(order["file"], pictures=np.stack(pictures), latents=np.stack(latents))
    return {
        "ready_s": ready,
        "seconds": seconds,
        "peak_rss_bytes": peak_rss(),
        "graphs": {role: [info.provider, info.profile] for role, info in infos.items()},
    }


def _warm_up(pipe: Pipeline, asked: tasks.Request) -> None:
    """Load every graph and run each once: one step, and its decoding."""
    steps = pipe.walk(asked)
    first = next(steps)
    steps.close()  # type: ignore[attr-defined]  # it is a generator, and holds the pipeline until it ends
    pipe.decode(first.clean, "np")


def _walked(pipe: Pipeline, asked: tasks.Request) -> Array:
    x = None
    for step in pipe.walk(asked):
        x = step.x
    assert x is not None  # a schedule has at least one hop
    return x


if __name__ == "__main__":
    main()
