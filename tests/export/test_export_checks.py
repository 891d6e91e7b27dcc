"""Golden values, the look at a bundle's numbers, and the forecast: each must be able to say no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import model_folder

from edgediff import checks, golden
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, CheckFailed
from edgediff.export import numerics
from edgediff.export.main import export_onnx
from edgediff.export.record import record_numerics


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checks")
    export_onnx(str(model_folder(folder / "model")), str(folder / "bundle"), dtype="fp16")
    return folder / "bundle"


def manifest(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "edgediff.json").read_text(encoding="utf-8"))
    return found


def test_golden_values_are_met(bundle: Path) -> None:
    result = checks.check(Bundle.open(bundle))
    assert set(result["graphs"]) == {"text_encoder", "denoiser", "decoder", "encoder"}
    assert all(share is not None and share < 1e-4 for share in result["graphs"].values())


def test_golden_values_that_differ_are_told(bundle: Path) -> None:
    entry = golden.read(Bundle.open(bundle))["denoiser"]
    outputs = {"out_sample": np.full(entry["outputs"]["out_sample"]["shape"], 1e-3, np.float32)}
    with pytest.raises(CheckFailed, match="differs from its golden values"):
        golden.compare(entry, outputs, 1e-3, "denoiser")
    with pytest.raises(CheckFailed, match="has the shape"):
        golden.compare(entry, {"out_sample": np.zeros((1, 2), np.float32)}, 1e-3, "denoiser")
    outputs["out_sample"][...] = np.nan
    with pytest.raises(CheckFailed, match="NaN or Inf"):
        golden.compare(entry, outputs, 1e-3, "denoiser")


def test_golden_inputs_are_a_rule() -> None:
    made = golden.inputs({"x": ("float32", (1, 3)), "ids": ("int64", (1, 4))})
    assert made["x"].tolist() == [[-1.0, 0.0, 1.0]]
    assert made["ids"].tolist() == [[0, 1, 0, 1]]


@pytest.mark.parametrize(
    "change",
    [
        {"format": "edgediff-golden/2"},
        {"graphs": {"denoiser": {"inputs": {"x": {"dtype": "float32", "shape": [1 << 30]}}, "outputs": {}}}},
        {"graphs": {"denoiser": {"inputs": {"x": {"dtype": "object", "shape": [1]}}, "outputs": {}}}},
        {
            "graphs": {
                "denoiser": {"inputs": {}, "outputs": {"y": {"shape": [4], "scale": 1, "values": [1.0]}}}
            }
        },
    ],
)
def test_hostile_golden_file(bundle: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    found = json.loads((bundle / golden.FILE).read_text(encoding="utf-8"))
    (tmp_path / golden.FILE).write_text(json.dumps({**found, **change}))
    opened = Bundle.open(bundle)
    copied = Bundle(**{**{f: getattr(opened, f) for f in Bundle.__slots__}, "path": tmp_path})
    with pytest.raises(BundleError):
        golden.read(copied)


def test_numbers_that_fit(bundle: Path) -> None:
    found = {each.role: each for each in numerics.look(Bundle.open(bundle), steps=2)}
    assert set(found) == {"text_encoder", "denoiser", "decoder", "encoder"}
    assert all(not each.over and 0 < each.largest < numerics.LARGEST for each in found.values())


def test_numbers_that_do_not_fit(tmp_path: Path) -> None:
    """An autoencoder whose middle reaches a million, as that of SDXL does."""
    from export_helpers import write_safetensors

    from edgediff.export.tensors import TensorFiles

    folder = model_folder(tmp_path / "model")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = TensorFiles([file])
    arrays = {name: tensors.whole(name) for name in tensors.entries}
    arrays["decoder.conv_in.bias"] = arrays["decoder.conv_in.bias"] + np.float32(1e6)
    write_safetensors(file, arrays)
    export_onnx(str(folder), str(tmp_path / "bundle"), dtype="fp32")
    found = {each.role: each for each in numerics.look(Bundle.open(tmp_path / "bundle"), steps=1)}
    assert found["decoder"].over
    assert found["decoder"].largest > 9e5
    assert not found["denoiser"].over


def test_what_was_proven_is_recorded(bundle: Path) -> None:
    graphs = [graph for part in manifest(bundle)["components"].values() for graph in part["graphs"]]
    assert {graph["numerics"] for graph in graphs} == {"unproven"}
    record_numerics(bundle, {"denoiser": True, "decoder": False})
    found = manifest(bundle)["components"]
    assert found["denoiser"]["graphs"][0]["numerics"] == "proven"
    assert found["decoder"]["graphs"][0]["numerics"] == "unproven"
    Bundle.open(bundle).verify()
    assert [file.name for file in bundle.iterdir() if file.name.startswith(".")] == []


def test_the_forecast_is_what_is_then_written(tmp_path: Path) -> None:
    model = str(model_folder(tmp_path / "model"))
    told = export_onnx(model, str(tmp_path / "out"), dtype="fp16", dry_run=True)
    assert not (tmp_path / "out").exists()
    export_onnx(model, str(tmp_path / "out"), dtype="fp16")
    written = {name: facts["bytes"] for name, facts in manifest(tmp_path / "out")["files"].items()}
    for name, size in told["files"].items():
        assert abs(written[name] - size) <= max(8192, size // 10), name
