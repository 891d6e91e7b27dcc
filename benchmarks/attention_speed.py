"""What reduced self-attention saves: one pass of a U-Net for each way, engine and precision.

``python -m benchmarks.attention_speed MODEL BUNDLE... [--engines ...] [--ways ...]`` where MODEL is a
checkpoint and the bundles were exported from it whole, one in float and one in int8 (with the form for
OpenVINO among the profiles; a receipt is not needed). Graphs of each way are written anew over the weights of
these bundles: no calibration is needed, since the time of a product of integers does not depend on its
scales. Passes are taken in turns with the untouched network, the order reversed each round, one way at a
time, so that memory holds two networks; seconds of the wall clock and of the processor are kept, since on a
machine that others use the latter vary less. Rows are put into ``results/attention_speed.json``, those of
other engines stay, and the table is written beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import card
from edgediff.bundle import Bundle, GraphSpec
from edgediff.export.assemble import Asked, assemble
from edgediff.export.emit.flops import flops
from edgediff.export.emit.integers import Quantization, Span, observed
from edgediff.export.emit.onnx import emit
from edgediff.export.emit.reduce import Reduction, parse, reduced
from edgediff.export.families.parts import Model
from edgediff.export.forms import PROFILES
from edgediff.export.main import build
from edgediff.export.quantize.extents import default_extents
from edgediff.export.quantize.plan_file import FILE, read_plan
from edgediff.export.quantize.tapped import refer_alike
from edgediff.export.quantize.tune import symmetric
from edgediff.runtimes.onnxruntime import OnnxRuntime

ENGINES: Mapping[str, tuple[str, str | None, bool]] = {
    "openvino bf16": ("openvino", "bf16", False),
    "openvino int8": ("openvino", "bf16", True),
    "onnxruntime cpu fp32": ("cpu", None, False),
    "onnxruntime cpu int8": ("cpu", None, True),
}
"""Device, precision of what stays float, and whether layers compute in int8."""
WAYS = ("tiles:2@1", "tiles:4@1", "tiles:2@1,2", "shifted:2@1", "pooled:2@1", "pooled:2@1,2", "strided:2@1")
RESULTS = Path(__file__).parent / "results" / "attention_speed.json"
Pass = Callable[[], tuple[float, float]]


def main() -> None:
    """Measure, and bring the results up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the checkpoint")
    parser.add_argument("bundles", type=Path, nargs="+", help="exported from it, in float and in int8")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    model = build(assemble(Asked(options.model)))
    for engine in options.engines:
        device, precision, integers = ENGINES[engine]
        folder = next(each for each in options.bundles if (each / FILE).is_file() == integers)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            forms = _Forms(model, folder, Path(scratch), device)
            whole, facts = _loaded(forms, None, device, precision)
            for way in options.ways:
                cut, more = _loaded(forms, way, device, precision)
                row = {"engine": engine, "way": way, **_in_turns(whole, cut, options.rounds)}
                _keep(options.out, {**row, "gflop": more, "whole_gflop": facts})
                print(json.dumps(row))
                del cut
                gc.collect()
            del whole
            gc.collect()


class _Forms:
    """Writes the denoiser's graph for a device, whole or reduced, over a bundle's weights."""

    def __init__(self, model: Model, folder: Path, scratch: Path, device: str) -> None:
        self.model, self.scratch = model, scratch
        self.part = next(part for part in model.parts if part.role == "denoiser")
        self.bundle = Bundle.open(folder)
        self.spec = self.bundle.graph("denoiser", "onnxruntime", device)
        plan = folder / FILE
        self.choices = read_plan(plan).choices("denoiser") if plan.is_file() else {}
        place = scratch / self.part.folder
        place.mkdir()
        for name in self.spec.weights:
            os.link(folder / name, scratch / name)

    def write(self, way: str | None) -> tuple[GraphSpec, Path, float]:
        """The graph's entry, its path and its work in billions of operations."""
        graph = reduced(self.part.graph, Reduction() if way is None else parse(way))
        spans = {value.id: Span(-4.0, 4.0) for value in observed(graph, self.choices)}
        decided = Quantization(self.choices, spans, symmetric(self.part, self.model))
        storage = "fp16" if "fp16" in self.spec.precision else "fp32"
        quantization = decided if self.choices else None
        emitted = emit(graph, storage, PROFILES[self.spec.profile], quantization=quantization)  # type: ignore[arg-type]
        refer_alike(emitted, [self.bundle.path / each.file for each in self.bundle.components["denoiser"]])
        path = self.scratch / self.part.folder / "reduced.onnx"
        path.write_bytes(emitted.model.SerializeToString())
        work = flops(graph, default_extents(self.model, self.part))["total"]
        return replace(self.spec, file=f"{self.part.folder}/{path.name}"), path, work / 1e9


def _loaded(forms: _Forms, way: str | None, device: str, precision: str | None) -> tuple[Pass, float]:
    """A function that takes one pass at the model's own size and tells its seconds, and the work of it."""
    spec, path, work = forms.write(way)
    extents: dict[str, int] = {"batch_size": 1}
    known = default_extents(forms.model, forms.part)
    rng, feeds = np.random.default_rng(0), {}
    for port in forms.part.graph.inputs:
        extents |= dict(zip(port.extents, known.get(port.name, ()), strict=True))
    for tensor in spec.inputs:
        shape = [dim if isinstance(dim, int) else extents[dim] for dim in tensor.dims]
        feeds[tensor.name] = rng.standard_normal(shape).astype(tensor.dtype)
    feeds["timestep"] = np.array([500], np.float32)
    chosen: dict[str, Any] = {"scan": False, "extents": extents, "threads": len(os.sched_getaffinity(0))}
    chosen |= {} if precision is None else {"precision": precision}
    graph = OnnxRuntime().load(spec, path, device, chosen, {})

    def take() -> tuple[float, float]:
        began, worked = time.perf_counter(), time.process_time()
        graph(feeds)
        return time.perf_counter() - began, time.process_time() - worked

    take()  # the first pass allocates
    return take, round(work, 1)


def _in_turns(whole: Pass, cut: Pass, rounds: int) -> dict[str, Any]:
    """Medians, quartiles and paired ratios of wall clock and processor."""
    taken: dict[str, list[tuple[float, float]]] = {"whole": [], "cut": []}
    for i in range(rounds):
        for name, run in (("whole", whole), ("cut", cut))[:: 1 if i % 2 == 0 else -1]:
            taken[name].append(run())
    found: dict[str, Any] = {"rounds": rounds}
    for i, clock in enumerate(("seconds", "processor_seconds")):
        mine, others = ([each[i] for each in taken[name]] for name in ("cut", "whole"))
        found[clock] = _spread(mine)
        found[f"whole_{clock}"] = _spread(others)
        found[f"{clock}_ratio"] = _spread([a / b for a, b in zip(mine, others, strict=True)])
    return found


def _spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def _keep(path: Path, row: dict[str, Any]) -> None:
    """Put a row in the place of the one it measures again."""
    old = json.loads(path.read_text())["rows"] if path.is_file() else []
    key = (row["engine"], row["way"])
    rows = [each for each in old if (each["engine"], each["way"]) != key] + [{**row, "machine": card()}]
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    path.with_suffix(".md").write_text(_table(rows))


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| engine | way | GFLOP | pass, s | whole, s | ratio, wall clock | ratio, processor |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        wall, busy = row["seconds_ratio"], row["processor_seconds_ratio"]
        told = [f"{each['median']:.2f} ({each['low']:.2f} to {each['high']:.2f})" for each in (wall, busy)]
        lines.append(
            f"| {row['engine']} | {row['way']} | {row['gflop']:g} of {row['whole_gflop']:g} | "
            f"{row['seconds']['median']:.3f} | {row['whole_seconds']['median']:.3f} | {' | '.join(told)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
