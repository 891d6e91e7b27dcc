"""One picture drawn for a trace, with ONNX Runtime's profile on.

Profiling takes time in every node, so the picture is drawn in a process of its own and counts nowhere else.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgediff.bench import children
from edgediff.bench.record import Record, Span
from edgediff.bench.trace import Traced, chrome, profiles

_NO_NODES = "picture for this trace; its runtime tells nothing of nodes"
_SLOWER = "picture for this trace, profiled: slower than what was measured"


def done(order: Mapping[str, Any], first: float) -> dict[str, Any]:
    """Draw twice in this process, warm up first, and return spans, roles of files and the session's zero.

    ``order`` has ``bundle``, ``options``, ``prompt``, ``arguments`` and ``profiles``, the folder for them.
    """
    from edgediff.bench import drawing
    from edgediff.bench.watching import Watching

    watching = Watching(order["spawned"], sampled=False)
    watching.between("python", order["spawned"], first)
    began = time.perf_counter()
    pipe = drawing.opened(order)
    watching.add("open", began)
    pipe._parts._options["profile"] = order["profiles"]
    watching.over(pipe._parts)
    asked = drawing.asked_of(pipe, order)
    drawing.short(pipe, asked, watching)
    drawing.drawn(pipe, asked, watching)
    specs = {role: pipe.bundle.components.get(role, ()) for role in pipe.infos()}
    roles = {spec.file: role for role, forms in specs.items() for spec in forms}
    pipe.close()  # which writes the profiles
    return {"spans": watching.spans, "roles": roles, "spawned": order["spawned"]}


def trace(order: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """Draw a picture for a trace, and return it as JSON holds it, with the record's own spans beside it.

    Raises:
        EdgediffError: what the drawing raised.
    """
    with tempfile.TemporaryDirectory(prefix="edgediff-trace-") as folder:
        told = children.do("traced", {**order, "profiles": folder})
        sessions = profiles(Path(folder), told["roles"], round(1e9 * told["spawned"]))
    spans = tuple(Span(name, "traced", thread, at, took) for name, thread, at, took in told["spans"])
    processes = [Traced(_SLOWER if sessions else _NO_NODES, spans, sessions)]
    for name in dict.fromkeys(span.process for span in record.spans):
        own = tuple(span for span in record.spans if span.process == name)
        processes.append(Traced(f"{name}, as measured", own))
    about = {
        "edgediff": record.edgediff_version, "made": record.made, "bundle": record.model.name,
        "device": record.asked.device, "size": f"{record.asked.width}x{record.asked.height}",
    }  # fmt: skip
    return chrome(processes, about)
