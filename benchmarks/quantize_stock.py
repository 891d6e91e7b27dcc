"""ONNX Runtime's own quantizer on the graphs of a float bundle, for comparison.

What its documentation tells a user to do: shape inference and clean-up first (``quant_pre_process``), then
``quantize_static`` with its defaults (pairs of QuantizeLinear and DequantizeLinear, minimum and maximum of
the calibration, per tensor), or ``quantize_dynamic`` for text encoders. Calibrated on what the bundle's own
sampler feeds each graph.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgediff import latents, tasks
from edgediff.bundle import Bundle
from edgediff.parts import Parts

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
PROFILE = "portable"
LARGE = 1 << 30  # bytes of weights beyond which they are written beside the graph


class _Recording(Parts):
    """Parts that keep what each graph was fed."""

    seen: dict[str, list[Feeds]]

    def run(self, role: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.seen.setdefault(role, []).append({name: np.array(x) for name, x in inputs.items()})
        return super().run(role, inputs)


def trajectory(bundle: Bundle, prompts: Sequence[str]) -> dict[str, list[Feeds]]:
    """Return what each role's graph is fed while the bundle draws the prompts, under seeds 0, 1, 2, ...

    The encoder is fed the pictures that were just drawn.
    """
    parts = _Recording(bundle, "cpu", verify=False)
    parts.seen = {}
    try:
        for seed, prompt in enumerate(prompts):
            plan = tasks.plan(parts, tasks.checked(bundle, prompt, seed=seed))
            x = plan.x
            for step in plan:
                x = step.x
            picture = plan.decode(x)
            if "encoder" in bundle.components:
                latents.encode(parts, np.clip(picture, -1, 1))
    finally:
        parts.close()
    return parts.seen


def quantize(parent: Path, out: Path, fed: Mapping[str, Sequence[Feeds] | None]) -> None:
    """Write a copy of the bundle ``parent`` to ``out`` with portable graphs quantized by ONNX Runtime.

    ``fed`` names the roles, with what a static quantization is calibrated on, or None for a dynamic one.
    Other forms of these roles are left out, so that every device runs what was quantized.
    """
    shutil.copytree(parent, out)
    manifest = json.loads((out / "edgediff.json").read_text(encoding="utf-8"))
    for role, feeds in fed.items():
        component = manifest["components"][role]
        graphs = component["graphs"]
        graph = next(each for each in graphs if each["profile"] == PROFILE)
        for each in graphs:
            (out / each["file"]).unlink()
        written = one(parent / graph["file"], out / graph["file"], feeds)
        graph["precision"] = "int8"
        graph["weights"] = [file.relative_to(out).as_posix() for file in written[1:]]
        component["graphs"] = [graph]
        component.pop("parameters", None)
    _list_files(out, manifest)


def one(graph: Path, out: Path, fed: Sequence[Feeds] | None) -> list[Path]:
    """Quantize one graph, statically if it is told what it is ``fed``; returns the files written."""
    from onnxruntime.quantization import quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    apart = sum(file.stat().st_size for file in graph.parent.glob("*_data")) > LARGE
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        ready = Path(scratch) / "model.onnx"
        quant_pre_process(str(graph), str(ready), skip_symbolic_shape=True, save_as_external_data=True,
                          all_tensors_to_one_file=True)  # fmt: skip
        if fed is None:
            quantize_dynamic(str(ready), str(out), use_external_data_format=apart)
        else:
            quantize_static(str(ready), str(out), _Reader(fed), use_external_data_format=apart)
    beside = out.with_name(f"{out.name}.data")
    return [out, beside] if beside.exists() else [out]


class _Reader:
    """What ONNX Runtime's calibrator draws its inputs from."""

    def __init__(self, fed: Sequence[Feeds]) -> None:
        self._left: Iterator[Feeds] = iter(fed)

    def get_next(self) -> dict[str, Array] | None:
        found = next(self._left, None)
        return None if found is None else dict(found)


def _list_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest anew over the files that are there; weights that no graph reads are removed."""
    read = {name for part in manifest["components"].values() for g in part["graphs"] for name in g["weights"]}
    kept = {part["parameters"] for part in manifest["components"].values() if "parameters" in part}
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if file.name in ("model.onnx_data", "parameters.json") and name not in read | kept:
            file.unlink()
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != "edgediff.json":
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": digest}
    manifest["files"] = files
    (folder / "edgediff.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
