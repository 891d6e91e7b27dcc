"""A graph on OpenVINO: ``python -m benchmarks.openvino_int8 FLOAT INT8``, two bundles of one model.

Each graph of a role is loaded through ONNX Runtime's plug-in provider, as edgediff loads it, with extents
that are free and extents that are fixed, and with ``--native`` by OpenVINO itself. Passes are taken in turns
in one process, the order reversed each round; seconds of the wall clock and of the processor are printed,
since on a machine that others use the latter vary less. ``--where`` adds what the plug-in says of its own
nodes: milliseconds of a pass by kind of node and kernel, the ten largest, which shows whether a layer
computes in int8 (``..._i8``) or fell back (``ref_...``).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import card
from edgediff.bundle import Bundle, GraphSpec
from edgediff.runtimes import _ort_openvino as openvino
from edgediff.runtimes import _ort_providers as providers
from edgediff.runtimes.onnxruntime import OnnxRuntime

_LISTED = 10
Feeds = dict[str, np.ndarray[Any, Any]]


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "bundles", type=Path, nargs="+", help="folders; the first one is what others are shares of"
    )
    parser.add_argument("--role", default="denoiser")
    parser.add_argument("--profile", help="the form to take; the one that openvino is given unless named")
    parser.add_argument("--precision", default="bf16", help="bf16 or fp32")
    parser.add_argument(
        "--extents", type=json.loads, default={"height": 64, "width": 64, "sequence_length": 77}
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--free", action="store_true", help="with free extents too")
    parser.add_argument("--native", action="store_true", help="by OpenVINO itself too")
    parser.add_argument("--where", action="store_true")
    options = parser.parse_args()
    extents = {"batch_size": 1, **options.extents}
    rows: dict[str, dict[str, Any]] = {}
    passes: dict[str, Callable[[], Any]] = {}
    for folder in options.bundles:
        spec, file = _graph(folder, options)
        feeds = _feeds(spec, extents)
        for name, run in _ways(spec, file, feeds, extents, options).items():
            label = f"{folder.name} {name}"
            began = time.perf_counter()
            passes[label] = run()
            rows[label] = {"profile": spec.profile, "load_seconds": round(time.perf_counter() - began, 2)}
            passes[label]()
        if options.where:
            rows[f"{folder.name} plug-in"]["where"] = _where(file, feeds, extents, options)
    _time(passes, rows, options.rounds)
    print(json.dumps({"machine": card(), "role": options.role, "precision": options.precision,
                      "threads": options.threads, "extents": extents, "rows": rows}, indent=2))  # fmt: skip


def _graph(folder: Path, options: argparse.Namespace) -> tuple[GraphSpec, Path]:
    bundle = Bundle.open(folder)
    spec = bundle.graph(options.role, "onnxruntime", "openvino")
    if options.profile is not None:
        spec = next(each for each in bundle.components[options.role] if each.profile == options.profile)
    return spec, folder / spec.file


def _feeds(spec: GraphSpec, extents: dict[str, int]) -> Feeds:
    rng = np.random.default_rng(0)
    shapes = {each.name: [d if isinstance(d, int) else extents[d] for d in each.dims] for each in spec.inputs}
    return {
        each.name: np.full(shapes[each.name], 500, each.dtype)
        if each.name == "timestep"
        else rng.standard_normal(shapes[each.name]).astype(each.dtype)
        for each in spec.inputs
    }


def _ways(
    spec: GraphSpec, file: Path, feeds: Feeds, extents: dict[str, int], options: argparse.Namespace
) -> dict[str, Callable[[], Callable[[], Any]]]:
    """How a graph is run; each loads it and gives a function that takes one pass."""

    def plug_in(fixed: bool) -> Callable[[], Any]:
        chosen: dict[str, Any] = {"threads": options.threads, "precision": options.precision}
        if fixed:
            chosen["extents"] = extents
        graph = OnnxRuntime().load(spec, file, "openvino", chosen, {})
        return lambda: graph(feeds)

    def native() -> Callable[[], Any]:
        import openvino as ov

        core = ov.Core()
        model = core.read_model(str(file))
        model.reshape({name: list(value.shape) for name, value in feeds.items()})
        hints = {"INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(options.precision, options.precision),
                 "INFERENCE_NUM_THREADS": options.threads}  # fmt: skip
        request = core.compile_model(model, "CPU", hints).create_infer_request()
        return lambda: request.infer(feeds)

    ways: dict[str, Callable[[], Callable[[], Any]]] = {"plug-in": lambda: plug_in(True)}
    if options.free:
        ways["plug-in, free extents"] = lambda: plug_in(False)
    if options.native:
        ways["native"] = native
    return ways


def _time(passes: dict[str, Callable[[], Any]], rows: dict[str, dict[str, Any]], rounds: int) -> None:
    wall: dict[str, list[float]] = {name: [] for name in passes}
    busy: dict[str, list[float]] = {name: [] for name in passes}
    for i in range(rounds):
        for name in list(passes) if i % 2 == 0 else reversed(passes):
            began, worked = time.perf_counter(), time.process_time()
            passes[name]()
            wall[name].append(time.perf_counter() - began)
            busy[name].append(time.process_time() - worked)
    first = next(iter(passes))
    for name, row in rows.items():
        row["seconds"] = {"median": statistics.median(wall[name]), "least": min(wall[name])}
        row["processor_seconds"] = {"median": statistics.median(busy[name]), "least": min(busy[name])}
        row["of_the_first"] = statistics.median(a / b for a, b in zip(wall[name], wall[first], strict=True))


def _where(
    file: Path, feeds: Feeds, extents: dict[str, int], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Count and milliseconds of a pass, by kind and kernel."""
    ort = providers.import_onnxruntime()
    chosen = ort.SessionOptions()
    chosen.log_severity_level = 4
    for name, extent in extents.items():
        chosen.add_free_dimension_override_by_name(name, extent)
    hints = json.loads(openvino.configured(options.precision, options.threads)["load_config"])
    hints["CPU"]["PERF_COUNT"] = "YES"
    found = [each for each in ort.get_ep_devices() if each.ep_name == "OpenVINOExecutionProvider"]
    chosen.add_provider_for_devices(found[:1], {"load_config": json.dumps(hints)})
    with tempfile.TemporaryDirectory() as scratch:
        chosen.enable_profiling = True
        chosen.profile_file_prefix = str(Path(scratch) / "profile")
        session = ort.InferenceSession(str(file), chosen)
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    count: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for event in events:
        told = event.get("args", {})
        if "ov_exec_type" in told:
            kind = f"{told.get('ov_node_type')} {told['ov_exec_type']}"
            count[kind] += 1
            spent[kind] += event["dur"] / 1000
    return {kind: [count[kind], round(ms, 2)] for kind, ms in spent.most_common(_LISTED)}


if __name__ == "__main__":
    main()
