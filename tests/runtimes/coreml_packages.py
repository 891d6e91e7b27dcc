"""Small packages that coremltools writes, and a bundle of them: y = 2 x + t, whole and in two pieces."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from edgediff import golden
from tests import tiny

SHAPE = (1, 4, 4, 4)


def _tensor(name: str, *dims: int) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "dims": list(dims)}


INPUTS = [_tensor("sample", *SHAPE), _tensor("timestep", 1)]
OUTPUTS = [_tensor("out.sample", *SHAPE)]


def _saved(kind: str, place: Path) -> None:
    """Write the whole network, or its first or second piece."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb

    def spec(*shape: int) -> Any:
        return mb.TensorSpec(shape)

    two = np.full(SHAPE, 2, np.float32)
    if kind == "first":

        @mb.program(input_specs=[spec(*SHAPE)], opset_version=ct.target.iOS17)
        def program(sample: Any) -> Any:
            return mb.mul(x=sample, y=two, name="middle")

    elif kind == "second":

        @mb.program(input_specs=[spec(*SHAPE), spec(1)], opset_version=ct.target.iOS17)
        def program(middle: Any, timestep: Any) -> Any:
            return mb.add(x=middle, y=timestep, name="out_sample")

    else:

        @mb.program(input_specs=[spec(*SHAPE), spec(1)], opset_version=ct.target.iOS17)
        def program(sample: Any, timestep: Any) -> Any:
            return mb.add(x=mb.mul(x=sample, y=two), y=timestep, name="out_sample")

    model = ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip
    model.save(str(place))


def write_bundle(folder: Path, pieces: bool = False) -> Path:
    """Write a bundle whose denoiser is such a network, with golden values."""
    names = ("UnetChunk1", "UnetChunk2") if pieces else ("Unet",)
    for name, kind in zip(names, ("first", "second") if pieces else ("whole",), strict=True):
        _saved(kind, folder / "coreml" / f"{name}.mlpackage")
    models = [f"coreml/{name}.mlpackage/Data/com.apple.CoreML/model.mlmodel" for name in names]
    others = [
        file.relative_to(folder).as_posix() for file in (folder / "coreml").rglob("*") if file.is_file()
    ]
    graph = {
        "runtime": "coreml", "profile": "split-einsum", "precision": "fp32", "file": models[0],
        "stages": models[1:], "weights": sorted(set(others) - set(models)), "inputs": INPUTS,
        "outputs": OUTPUTS,
    }  # fmt: skip
    shapes = {t["name"]: (t["dtype"], tuple(t["dims"])) for t in INPUTS}
    given = golden.inputs(shapes)
    right = {"out.sample": 2 * given["sample"] + given["timestep"]}
    content = {"format": golden.FORMAT, "graphs": {"denoiser": golden.entry(given, right)}}
    (folder / golden.FILE).write_text(json.dumps(content))
    tiny.write_tokenizer(folder / "tokenizer", whole=True)
    manifest = tiny.manifest(folder, text=None)
    manifest |= {"format_version": "1.4", "components": {"denoiser": {"graphs": [graph]}}}
    (folder / "edgediff.json").write_text(json.dumps(manifest))
    return folder


def sealed(folder: Path) -> None:
    """Put the sha256 of all listed files, as they are now, into the manifest."""
    file = folder / "edgediff.json"
    manifest = json.loads(file.read_text())
    for name, record in manifest["files"].items():
        raw = (folder / name).read_bytes()
        record |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    file.write_text(json.dumps(manifest))
