"""A process that draws one picture from nothing, as `edgediff run` does, and says when each stage ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def done(order: Mapping[str, Any], first: float) -> dict[str, Any]:
    """Do the order; ``stages`` are in seconds, in the order in which they began, without ``total``.

    ``verify ROLE`` and ``load ROLE`` run side by side for several roles, and are part of ``picture``.
    """
    spawned = order["spawned"]
    from edgediff import runtime as runtimes
    from edgediff.bench import drawing
    from edgediff.bench.watching import Watching
    from edgediff.machine import peak_rss

    if order["options"].get("runtime", runtimes.AUTO) in (runtimes.AUTO, "onnxruntime"):
        runtimes.find("onnxruntime").devices()  # which imports it
    imported = time.perf_counter()
    watching = Watching(spawned, sampled=False)
    watching.between("python", spawned, first)
    watching.between("import", first, imported)
    with drawing.opened(order) as pipe:
        watching.over(pipe._parts)
        asked = drawing.asked_of(pipe, order)
        opened = watching.add("open", imported)
        drawn = drawing.drawn(pipe, asked, watching)
    watching.stop()
    loads = [
        (start, name, took)
        for name, _, start, took in watching.spans
        if name.startswith(("verify ", "load "))
    ]
    stages = {"python": first - spawned, "import": imported - first, "open": opened}
    stages |= {name: took for _, name, took in sorted(loads)}
    return {
        "stages": {**stages, "picture": drawn["picture"]},
        "spans": watching.spans,
        "peak_rss_bytes": peak_rss(),
    }
