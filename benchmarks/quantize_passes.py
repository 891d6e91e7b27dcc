"""Seconds of passes of one role's graphs, as edgediff's own runtime loads and runs them, in turns.

``python -m benchmarks.quantize_passes JSON`` prints one JSON object. The argument names the role, extents,
rounds, threads, and the rows: name, bundle, device and options of the runtime. The order is reversed each
round, and a ratio is that of two passes of one round, to the first row's. With one row the peak of resident
memory is that of its graph alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.quantize_turns import peak_mb, spread
from edgediff.bundle import Bundle
from edgediff.parts import Parts
from edgediff.runtime import Graph, GraphInfo

WARMING = 2  # passes before any is counted: the first one touches every page


def measured(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Run a process of its own that measures what is asked for."""
    command = [sys.executable, "-m", "benchmarks.quantize_passes", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-1500:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Load every row's graph, run passes in turns, and say what they took."""
    graphs: dict[str, Graph] = {}
    rows: dict[str, dict[str, Any]] = {}
    for row in asked["rows"]:
        began = time.perf_counter()
        options = {"threads": asked["threads"], **row.get("options", {})}
        parts = Parts(Bundle.open(row["bundle"]), row["device"], "onnxruntime", options, verify=False)
        graphs[row["name"]] = graph = parts.graph(asked["role"])
        rows[row["name"]] = {"load_s": round(time.perf_counter() - began, 2), **_told(graph.info)}
    fed = {name: feeds(graph.info, asked) for name, graph in graphs.items()}
    for _ in range(WARMING):
        for name, graph in graphs.items():
            graph(fed[name])
    wall, busy = _in_turns(graphs, fed, int(asked["rounds"]))
    first = next(iter(graphs))
    for name, row in rows.items():
        ratios = [a / b for a, b in zip(wall[name], wall[first], strict=True)]
        row |= {"seconds": spread(wall[name]), "processor_seconds": spread(busy[name])}
        row |= {"ratio": spread(ratios), "ratio_to": first}
        row["all_seconds"] = [round(seconds, 5) for seconds in wall[name]]
    return {"rows": rows, "peak_rss_mb": peak_mb()}


def _told(info: GraphInfo) -> dict[str, Any]:
    return {"profile": info.profile, "provider": info.provider, "precision": info.precision,
            "nodes": dict(info.nodes)}  # fmt: skip


def _in_turns(
    graphs: Mapping[str, Graph], fed: Mapping[str, Any], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    wall: dict[str, list[float]] = {name: [] for name in graphs}
    busy: dict[str, list[float]] = {name: [] for name in graphs}
    for i in range(rounds):
        for name in list(graphs) if i % 2 == 0 else list(reversed(graphs)):
            began, worked = time.perf_counter(), time.process_time()
            graphs[name](fed[name])
            wall[name].append(time.perf_counter() - began)
            busy[name].append(time.process_time() - worked)
    return wall, busy


def feeds(info: GraphInfo, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same numbers for every form of a graph: unit noise, and a timestep in the middle."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for tensor in sorted(info.inputs, key=lambda each: each.name):
        if tensor.name == "timestep":
            found[tensor.name] = np.full([1] * len(tensor.dims), 500, tensor.dtype)
            continue
        inner: Sequence[int] = [int(asked["size"])] * 2 if len(tensor.dims) == 4 else [int(asked["tokens"])]
        given = [1, *inner] if len(tensor.dims) == 3 else [1, 0, *inner]
        shape = [dim if isinstance(dim, int) else given[i] for i, dim in enumerate(tensor.dims)]
        found[tensor.name] = rng.standard_normal(shape).astype(tensor.dtype)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
