"""``--device auto``: a short measurement of what this machine's devices do with a network's main operations.

The rule. A denoiser of less than 64 MB of weights runs on the CPU and nothing is measured. For a larger one
the graph of :mod:`edgediff.probe_graphs` is timed, in the form that the bundle has (float, int8), on each of
``cpu``, ``openvino`` and ``cuda`` that is installed and for which the bundle has a form, and the fastest is
taken if it is at least 1.15 times as fast as the CPU. On openvino bf16 is measured too unless a precision was
asked for; it is taken if it is at least 1.3 times as fast as the best in float32, and said aloud, since its
pictures differ from those of float32 (by less than those of int8). The answer is remembered for the machine,
the versions and the kind of bundle.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgediff import cache_folder
from edgediff import runtime as runtimes
from edgediff.bundle import Bundle, GraphSpec, TensorSpec
from edgediff.errors import EdgediffError
from edgediff.roles import parse_precision

SMALL = 64 << 20
"""Bytes of the denoiser's weights below which the CPU is taken unmeasured."""
_FASTER, _COARSER = 1.15, 1.3
_ROUNDS = 5
_LONG = 0.5  # seconds after which a candidate that is behind is not run again
_PACKAGES = {"openvino": "onnxruntime_ep_openvino"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What ``auto`` means here: device, precision (None is the device's own), and why. ``measured`` holds
    seconds for the probe's graph by ``device`` or ``device:precision``."""

    device: str
    precision: str | None
    why: str
    measured: Mapping[str, float]
    remembered: bool = False

    @property
    def coarse(self) -> bool:
        """Whether it computes in less than float32 where the bundle says float32."""
        return self.precision == "bf16"

    def __str__(self) -> str:
        precise = "" if self.precision is None else f" in {self.precision}"
        return f"device auto: {self.device}{precise}, {self.why}"


def choose(
    bundle: Bundle,
    threads: int | None = None,
    precision: str | None = None,
    folder: Path | None = None,
) -> Choice:
    """Return what ``auto`` means for a bundle; ``folder`` is where choices are remembered, if anywhere.

    ``precision`` is one that was asked for, which leaves the device to be chosen.
    """
    spec = _denoiser(bundle)
    weights = 0 if spec is None else _bytes(bundle, spec)
    if spec is None or weights < SMALL:
        return Choice("cpu", precision, "as for all small models", {})
    integers = "int8" in spec.precision.split("+")[0] and "weights" not in spec.precision
    candidates = _candidates(bundle, integers, precision)
    if candidates == [("cpu", precision)]:
        return Choice("cpu", precision, "the only device here that this bundle has a form for", {})
    facts = _facts(candidates, integers, threads)
    known = None if folder is None else _recall(folder, facts)
    if known is not None:
        return known
    measured = _measure(candidates, integers, threads)
    made = decided(measured, precision)
    if folder is not None:
        _remember(folder, facts, made)
    return made


def settled(bundle: Bundle, threads: int | None, precision: str | None, folder: Path | None) -> Choice:
    """Return :func:`choose`'s choice for ``precision`` as it is given for parts (``denoiser=bf16,...``).

    That it computes coarser than the bundle says, unasked, is warned of: it is never silent.
    """
    asked = set(parse_precision(precision).values())
    one = None if not asked else "bf16" if "bf16" in asked else "fp32"
    choice = choose(bundle, threads, one, folder)
    if choice.coarse and one is None:
        warnings.warn(
            f"{choice}. Pictures differ a little from float32's: name a precision or a device for others.",
            stacklevel=5,
        )
    return choice


def decided(measured: Mapping[str, float], precision: str | None = None) -> Choice:
    """Return the choice that seconds by ``device`` or ``device:precision`` lead to; see the module's rule."""
    exact = {name: taken for name, taken in measured.items() if not name.endswith(":bf16")}
    coarse = {name: taken for name, taken in measured.items() if name.endswith(":bf16")}
    best = min(exact, key=exact.__getitem__, default=None)
    if best is not None and "cpu" in exact and exact["cpu"] < _FASTER * exact[best]:
        best = "cpu"
    if coarse:
        fastest = min(coarse, key=coarse.__getitem__)
        if best is None or exact[best] > _COARSER * coarse[fastest]:
            best = fastest
    if best is None:
        return Choice("cpu", precision, "since no device could be measured", {})
    device, _, chosen = best.partition(":")
    told = ", ".join(f"{name.replace(':', ' ')} {1e3 * taken:.0f}" for name, taken in measured.items())
    return Choice(
        device, chosen or precision, f"the best of a short measurement (ms: {told})", dict(measured)
    )


def _denoiser(bundle: Bundle) -> GraphSpec | None:
    for role in ("denoiser", "controlled_denoiser"):
        for spec in bundle.components.get(role, ()):
            if spec.runtime == "onnxruntime":
                return spec
    return None


def _bytes(bundle: Bundle, spec: GraphSpec) -> int:
    found = 0
    for name in spec.files:
        with contextlib.suppress(OSError):
            found += bundle.files[name].bytes if name in bundle.files else (bundle.path / name).stat().st_size
    return found


def _candidates(bundle: Bundle, integers: bool, precision: str | None) -> list[tuple[str, str | None]]:
    """Devices and precisions worth measuring, the CPU first."""
    found: list[tuple[str, str | None]] = [("cpu", precision)] if precision != "bf16" else []
    own = any(spec.profile == "openvino" for spec in bundle.components.get("denoiser", ()))
    if importlib.util.find_spec(_PACKAGES["openvino"]) is not None and (own or not integers):
        if precision != "bf16":
            found.append(("openvino", precision))
        if precision != "fp32":
            found.append(("openvino", "bf16"))
    if not integers and precision != "bf16" and "cuda" in runtimes.find("onnxruntime").devices():
        found.append(("cuda", precision))
    return found or [("cpu", precision)]


def _measure(
    candidates: Sequence[tuple[str, str | None]], integers: bool, threads: int | None
) -> dict[str, float]:
    """Seconds of the probe's graph on each candidate, the least of a few runs taken in turns."""
    import tempfile

    from edgediff import probe_graphs

    backend = runtimes.find("onnxruntime")
    x = np.random.Generator(np.random.PCG64(1)).standard_normal(probe_graphs.SHAPE, np.float32)
    graphs: dict[str, runtimes.Graph] = {}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgediff-probe-") as scratch:
        for device, precision in candidates:
            symmetric = integers and device == "openvino"
            file = Path(scratch) / f"{'signed' if symmetric else 'unsigned'}.onnx"
            if not file.exists():
                file.write_bytes(probe_graphs.block(integers, symmetric))
            ports = (TensorSpec(probe_graphs.INPUT, "float32", probe_graphs.SHAPE),)
            spec = GraphSpec("onnxruntime", "portable", file.name, "fp32", ports)
            options: dict[str, Any] = {"threads": threads, "precision": precision, "scan": False}
            name = device if precision is None else f"{device}:{precision}"
            with contextlib.suppress(EdgediffError):  # a device that is not there after all is no candidate
                graphs[name] = backend.load(spec, file, device, options, {})
    try:
        for _ in range(1 + _ROUNDS):
            for name, graph in graphs.items():
                if found.get(name, 0.0) > _LONG:
                    continue
                began = time.perf_counter()
                graph({probe_graphs.INPUT: x})
                found[name] = min(found.get(name, np.inf), time.perf_counter() - began)
    finally:
        for graph in graphs.values():
            graph.close()
    return {name: round(taken, 5) for name, taken in found.items()}


def _facts(
    candidates: Sequence[tuple[str, str | None]], integers: bool, threads: int | None
) -> dict[str, Any]:
    from edgediff import __version__, machine
    from edgediff.threads import available_threads

    card = machine.card()
    return {
        "edgediff": __version__,
        "machine": [card["processor"], card["features"], card["cores"]],
        "threads": threads or available_threads(),
        "candidates": [list(each) for each in candidates],
        "versions": versions(),
        "kind": "int8" if integers else "float",
    }


def versions() -> list[str]:
    """Return names and versions of the installed onnxruntime distributions, from their folders' names."""
    import sys

    found = set()
    for folder in sys.path:
        with contextlib.suppress(OSError):
            names = os.listdir(folder or ".")  # noqa: PTH208  (a Path for each entry of a site costs more)
            found |= {
                name for name in names if name.startswith("onnxruntime") and name.endswith(".dist-info")
            }
    return sorted(name.removesuffix(".dist-info") for name in found)


def _recall(folder: Path, facts: Mapping[str, Any]) -> Choice | None:
    try:
        said = json.loads((folder / cache_folder.CHOICES).read_bytes())[_key(facts)]
        measured = {str(name): float(taken) for name, taken in said["measured"].items()}
        precision = said["precision"] if said["precision"] in ("fp32", "bf16") else None
        if said["device"] not in {device for device, _ in facts["candidates"]}:
            return None
        return Choice(said["device"], precision, str(said["why"])[:300], measured, True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remember(folder: Path, facts: Mapping[str, Any], made: Choice) -> None:
    """Note a choice; one that cannot be written is made again next time."""
    import tempfile

    with contextlib.suppress(OSError):
        folder.mkdir(0o700, parents=True, exist_ok=True)
        file = folder / cache_folder.CHOICES
        try:
            known = json.loads(file.read_bytes())
        except (OSError, ValueError):
            known = {}
        known = dict(list(known.items())[-63:]) if isinstance(known, dict) else {}
        said = {name: value for name, value in asdict(made).items() if name != "remembered"}
        known[_key(facts)] = {**said, "facts": dict(facts)}
        descriptor, name = tempfile.mkstemp(prefix=".choices-", dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(known, stream, indent=1)
        Path(name).replace(file)


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
