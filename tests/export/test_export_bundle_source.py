"""A bundle of ours as a model to export: the tensors of the checkpoint that it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import model_folder
from family_folders import FAMILIES, xl_folder

from edgediff.bundle import Bundle
from edgediff.errors import EdgediffError, SourceError, UnsupportedError
from edgediff.export.assemble import Asked, assemble
from edgediff.export.bundle_source import BundleSource
from edgediff.export.main import build, export_onnx
from edgediff.export.sources import EMBEDDED, open_source


def _bundle(source: Path, out: Path, **options: Any) -> Path:
    export_onnx(str(source), str(out), verify=False, **options)
    return out


def _weights(model: str, **options: Any) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    """Every parameter by role and name, as the networks ask for it."""
    found = {}
    for part in build(assemble(Asked(model, **options))).parts:
        for parameter in part.graph.parameters:
            whole = part.tensors.whole(part.names[parameter.name])
            found[part.role, parameter.name] = whole.reshape(parameter.shape)
    return found


@pytest.mark.parametrize("family", ["text", "xl", "refiner", "tiny autoencoder"])
def test_every_tensor_comes_back(family: str, tmp_path: Path) -> None:
    source, options = FAMILIES[family](tmp_path)
    want = _weights(str(source), **options)
    have = _weights(str(_bundle(source, tmp_path / "out", **options)))
    assert want.keys() == have.keys()
    for key, array in want.items():
        np.testing.assert_allclose(have[key], array, rtol=3e-7, atol=0, err_msg=str(key))


def test_controlnets_come_back(tmp_path: Path) -> None:
    source, options = FAMILIES["controls"](tmp_path)
    want = _weights(str(source), **options)
    have = _weights(str(_bundle(source, tmp_path / "out", **options)))
    assert want.keys() == have.keys() and {role for role, _ in have} >= {"control", "control_2"}
    for key, array in want.items():
        np.testing.assert_allclose(have[key], array, rtol=3e-7, atol=0, err_msg=str(key))


def test_half_precision_is_as_it_was_stored(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "m")
    want = _weights(str(source))
    have = _weights(str(_bundle(source, tmp_path / "out", dtype="fp16")))
    for key, array in want.items():
        np.testing.assert_allclose(have[key], array, rtol=1e-3, atol=1e-6, err_msg=str(key))
    assert any(array.dtype == np.float16 for array in have.values())


def test_runs_are_pieces_of_the_whole(tmp_path: Path) -> None:
    bundle = _bundle(model_folder(tmp_path / "m"), tmp_path / "out")
    tensors = open_source(str(bundle)).component("unet", ("UNet2DConditionModel",)).tensors
    for name, entry in tensors.entries.items():
        runs = list(tensors.rows(name, 200))
        whole = tensors.whole(name)
        assert whole.shape == entry.shape and sum(map(len, runs)) == len(whole)
        np.testing.assert_array_equal(np.concatenate(runs), whole)


def test_facts_and_defaults_are_kept(tmp_path: Path) -> None:
    source = xl_folder(tmp_path / "m")
    (source / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    first = Bundle.open(_bundle(source, tmp_path / "a", recipe="lightning-4"))
    found = assemble(Asked(str(tmp_path / "a")))
    assert isinstance(found.source, BundleSource) and found.recipe is not None
    made = build(found)
    assert found.recipe.name == "lightning-4" and made.facts["scheduler"] == first.scheduler
    assert made.defaults["num_inference_steps"] == 4 and made.defaults["sampler"] == first.defaults.sampler
    assert found.source.origin() == {"source": "m", "revision": None, "license": "mit"}


def test_the_embedded_model_is_a_source() -> None:
    found = assemble(Asked(EMBEDDED))
    made = build(found)
    assert {part.role for part in made.parts} == {"text_encoder", "denoiser", "decoder", "encoder"}
    assert found.recipe is not None and found.recipe.name == "lcm" and made.defaults["guidance_scale"] == 3.0


def test_quantized_bundles_are_refused(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "m")
    _bundle(source, tmp_path / "q", quantize="int8-weights", receipt=False)
    with pytest.raises(UnsupportedError, match="stored as int8-weights"):
        build(assemble(Asked(str(tmp_path / "q"))))


def _edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def _first(value: Any, **fields: Any) -> None:
    entry = value["parameters"]["conv_in.weight"]
    entry.update(fields)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: _first(v, shape=[1, 2]),
        lambda v: _first(v, dtype="float16"),
        lambda v: _first(v, dtype="float64"),
        lambda v: _first(v, scale=0.0),
        lambda v: _first(v, scale="1"),
        lambda v: _first(v, transposed=True),
        lambda v: _first(v, bits=8),
        lambda v: v["parameters"].update({"conv_in.weight": 3}),
        lambda v: v["parameters"].update({"conv_in.weight": {"initializer": []}}),
        lambda v: v["parameters"].pop("conv_in.weight"),
        lambda v: v.update(parameters=[]),
    ],
)
def test_a_wrong_list_of_parameters(change: Any, tmp_path: Path) -> None:
    bundle = _bundle(model_folder(tmp_path / "m"), tmp_path / "out")
    _edit(bundle / "unet" / "parameters.json", change)
    with pytest.raises(SourceError, match=r"conv_in\.weight|parameters\.json"):
        build(assemble(Asked(str(bundle))))


def test_damaged_weights_are_found_before_they_are_read(tmp_path: Path) -> None:
    bundle = _bundle(model_folder(tmp_path / "m"), tmp_path / "out")
    weights = bundle / "unet" / "model.onnx_data"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(EdgediffError, match=r"model\.onnx_data"):
        build(assemble(Asked(str(bundle))))
