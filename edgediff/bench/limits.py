"""What this machine does at best, measured on the spot: products, convolutions, copies of memory."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from edgediff import runtime as runtimes
from edgediff.bench import kernels
from edgediff.bench.kernels import Kernel
from edgediff.bundle import GraphSpec
from edgediff.errors import EdgediffError
from edgediff.threads import available_threads

SECONDS, LEAST = 0.5, 3
"""A kernel runs so long, and so often at least; its fastest run counts, since a limit is what is reached."""
_COPIED = 256 << 20  # bytes of an array: beyond caches of servers
_COPIES = 5


def done(order: Mapping[str, Any], first: float) -> dict[str, Any]:
    """Measure products and convolutions for each of ``wanted`` (device, precision option, ``floats`` and
    ``integers``), and the bandwidth of copies. What a provider cannot is told in ``missing``."""
    del first
    threads = order["threads"] or available_threads()
    limits: list[dict[str, Any]] = []
    missing: list[str] = []
    for wanted in order["wanted"]:
        for kernel in _kernels(wanted):
            try:
                found = _measured(kernel, wanted, threads)
            except EdgediffError as error:
                missing.append(f"{kernel.kind} of {kernel.form} on {wanted['device']}: {error}")
                continue
            limits.append(found)
    return {"limits": [*_best(limits), _copy(threads)], "missing": missing}


def _kernels(wanted: Mapping[str, Any]) -> list[Kernel]:
    found = kernels.floats() if wanted["floats"] else []
    return found + (kernels.integers(wanted["provider"]) if wanted["integers"] else [])


def _measured(kernel: Kernel, wanted: Mapping[str, Any], threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="edgediff-bench-") as folder:
        file = Path(folder) / "kernel.onnx"
        file.write_bytes(kernel.model)
        options = {"threads": threads, "precision": wanted["option"], "scan": False, "cache": False}
        spec = GraphSpec("onnxruntime", "portable", file.name, "fp32")
        graph = runtimes.find("onnxruntime").load(spec, file, wanted["device"], options, {})
        try:
            x = np.random.default_rng(1).standard_normal(kernel.shape).astype(np.float32)
            took = fastest(lambda: graph({"x": x}), SECONDS, LEAST)
            provider = graph.info.provider
        finally:
            graph.close()
    return {
        "kind": kernel.kind, "precision": wanted["float"] if kernel.form == "float" else "int8",
        "provider": provider, "per_second": kernel.flops / took, "unit": "FLOP/s", "how": kernel.how,
    }  # fmt: skip


def fastest(work: Callable[[], object], seconds: float, least: int) -> float:
    """Return the seconds of the fastest of several runs, after one that does not count."""
    work()
    found: list[float] = []
    while len(found) < least or sum(found) < seconds:
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def _best(limits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fastest form of each kind, precision and provider."""
    best: dict[tuple[str, str, str], dict[str, Any]] = {}
    for each in limits:
        key = (each["kind"], each["precision"], each["provider"])
        if key not in best or best[key]["per_second"] < each["per_second"]:
            best[key] = each
    return list(best.values())


def _copy(threads: int) -> dict[str, Any]:
    """Bytes read and written per second while every thread copies its share of a large array."""
    source = np.ones(_COPIED // 8, np.float64)
    target = np.empty_like(source)
    target[:] = 0  # pages are there before anything is timed
    shares = np.linspace(0, source.size, threads + 1).astype(int)

    with ThreadPoolExecutor(threads) as pool:

        def copied() -> None:
            pairs = itertools.pairwise(shares)
            list(pool.map(lambda share: np.copyto(target[slice(*share)], source[slice(*share)]), pairs))

        took = fastest(copied, 0.0, _COPIES)
    how = f"{threads} threads copy {_COPIED >> 20} MiB; bytes read and bytes written both count"
    return {
        "kind": "copy", "precision": "bytes", "provider": "numpy", "per_second": 2 * _COPIED / took,
        "unit": "B/s", "how": how,
    }  # fmt: skip
