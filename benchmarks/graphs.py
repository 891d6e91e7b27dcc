"""The graph table: one network's graphs side by side. ``python -m benchmarks.graphs``.

Compares the forms of a bundle's graph (``--ours``), and the graph of a folder that Optimum exported
(``--theirs``), which must be of the same checkpoint: nodes, initializers, bytes, seconds of a pass and peak
memory. Passes are taken in turns in one process under one set of session options, the order reversed each
round; a ratio is that of two neighbours in time, and its median is printed with its range. Seconds of the
processor are printed too, since on a machine that others use they vary less. Peak memory is that of a fresh
process that loads one graph and runs one pass. Without ``--ours`` a Stable Diffusion 1.5 with random weights
is made and exported first (a minute, 8 GB of disk); the speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import card
from edgediff.bundle import Bundle

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
FOLDERS = {"denoiser": "unet", "decoder": "vae_decoder", "encoder": "vae_encoder"}
ATTEMPTS = 2  # passes before any is counted: the first one touches every page


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=Path, help="a bundle; one with random weights unless given")
    parser.add_argument("--theirs", type=Path, help="a folder that Optimum exported from the same checkpoint")
    parser.add_argument("--role", choices=FOLDERS, default="denoiser")
    parser.add_argument("--profiles", default="portable,ort-cpu", help="forms of ours, the last one judged")
    parser.add_argument("--size", type=int, default=64, help="latents along each side")
    parser.add_argument("--tokens", type=int, default=77)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="also write the record to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        ours = options.ours or _random(Path(scratch))
        record = _record(_files(ours, options), options)
    print(json.dumps(record, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=2) + "\n")


def _random(folder: Path) -> Path:
    """A bundle of Stable Diffusion 1.5's size."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "export"))
    from export_helpers import FULL_TEXT, FULL_UNET, FULL_VAE, model_folder

    from edgediff.export.main import export_onnx

    model = model_folder(folder / "model", FULL_TEXT, FULL_UNET, FULL_VAE)
    export_onnx(str(model), str(folder / "bundle"), verify=False)
    return folder / "bundle"


def _files(ours: Path, options: argparse.Namespace) -> dict[str, Path]:
    """The graphs to compare, by a name for each; the last one is judged against the others."""
    bundle = Bundle.open(ours)
    specs = {spec.profile: ours / spec.file for spec in bundle.components[options.role]}
    found = {"optimum": options.theirs / FOLDERS[options.role] / "model.onnx"} if options.theirs else {}
    return found | {name: specs[name] for name in options.profiles.split(",")}


def _record(files: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    rows = {name: _contents(file) | _peak(file, options) for name, file in files.items()}
    loaded = {name: _session(file, options.threads) for name, file in files.items()}
    passes = {name: _pass(session, _feeds(session, options)) for name, session in loaded.items()}
    results = {name: [passes[name]() for _ in range(ATTEMPTS)][-1] for name in files}
    wall: dict[str, list[float]] = {name: [] for name in files}
    busy: dict[str, list[float]] = {name: [] for name in files}
    for i in range(options.rounds):
        for name in list(files) if i % 2 == 0 else reversed(files):
            began, worked = time.perf_counter(), time.process_time()
            passes[name]()
            wall[name].append(time.perf_counter() - began)
            busy[name].append(time.process_time() - worked)
    *others, judged = files
    for name, row in rows.items():
        row |= {"seconds": _spread(wall[name]), "processor_seconds": _spread(busy[name])}
        if name in others:
            row["times_as_long"] = _spread([a / b for a, b in zip(wall[name], wall[judged], strict=True)])
            row["times_the_work"] = _spread([a / b for a, b in zip(busy[name], busy[judged], strict=True)])
            row["difference"] = float(
                np.abs(results[name] - results[judged]).max() / np.abs(results[judged]).max()
            )
    return {
        "machine": card(),
        "role": options.role,
        "batch": options.batch,
        "latents": [options.size, options.size],
        "tokens": options.tokens,
        "threads": options.threads,
        "rounds": options.rounds,
        "judged": judged,
        "graphs": rows,
    }


def _contents(file: Path) -> dict[str, Any]:
    """What the file holds; weights in a file beside it count by what the graph refers to."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    data = sum(
        int(pair.value) for each in graph.initializer for pair in each.external_data if pair.key == "length"
    )
    return {
        "nodes": len(graph.node),
        "initializers": len(graph.initializer),
        "graph_bytes": file.stat().st_size,
        "weight_bytes": data,
    }


def _session(file: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _feeds(session: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The same numbers for every graph, in the types and ranks that it asks for."""
    rng = np.random.default_rng(0)
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(float16)": np.float16}
    found: dict[str, Any] = {}
    for tensor in sorted(session.get_inputs(), key=lambda each: each.name):
        dims = [dim if isinstance(dim, int) else None for dim in tensor.shape]
        if tensor.name == "timestep":
            found[tensor.name] = np.full([1] * len(dims), 500, types[tensor.type])
            continue
        inner = [options.tokens] if len(dims) == 3 else [options.size * _scale(tensor.name, options.role)] * 2
        free = [options.batch, *inner] if len(dims) == 3 else [options.batch, 4, *inner]
        shape = [given if dim is None else dim for dim, given in zip(dims, [*free, 768], strict=False)]
        found[tensor.name] = rng.standard_normal(shape).astype(types[tensor.type])
    return found


def _scale(name: str, role: str) -> int:
    return 8 if role == "encoder" and name == "sample" else 1


def _pass(session: Any, feeds: dict[str, Any]) -> Any:
    name = session.get_outputs()[0].name
    return lambda: session.run([name], feeds)[0]


def _peak(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Load time and peak resident memory of a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_alone, (file, options))


def _alone(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    session = _session(file, options.threads)
    seconds = time.perf_counter() - began
    _pass(session, _feeds(session, options))()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"load_s": round(seconds, 2), "peak_rss_mb": round(peak / 1e6)}


def _spread(values: Sequence[float]) -> dict[str, float]:
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(number, 4) for name, number in numbers.items()}


if __name__ == "__main__":
    main()
