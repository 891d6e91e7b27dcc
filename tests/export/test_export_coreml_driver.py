"""``export_coreml``: bundles of Core ML packages, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_folders import manifest, ports, specs
from export_helpers import model_folder
from family_folders import FAMILIES, xl_folder

import edgediff
from edgediff import runtime
from edgediff.bundle import Bundle
from edgediff.errors import CheckFailed, EdgediffError, InputError, UnsupportedError
from edgediff.export.coreml import compression
from edgediff.export.coreml.main import export_coreml
from edgediff.export.coreml.schemes import scheme_of
from edgediff.export.families.parts import Part
from edgediff.export.main import export_onnx
from edgediff.quality import Tally

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="module")
def plain(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of half precision, without a receipt."""
    out = tmp_path_factory.mktemp("plain") / "bundle"
    told = export_coreml(str(tiny), str(out), receipt=False)
    assert told["ran"] == ["decoder", "denoiser", "encoder", "text_encoder"] and told["quality"] is None
    return out


def test_the_bundle_is_what_the_manifest_says(plain: Path) -> None:
    bundle = Bundle.open(plain)
    assert bundle.format_version == "1.4" and not bundle.profiles
    bundle.verify()
    denoiser = bundle.graph("denoiser")
    assert denoiser.file == "coreml/Unet.mlpackage/Data/com.apple.CoreML/model.mlmodel"
    assert (denoiser.runtime, denoiser.profile, denoiser.precision) == ("coreml", "split-einsum", "fp16")
    assert {tensor.name: tensor.dims for tensor in denoiser.inputs} == {
        "sample": (1, 4, 8, 8), "timestep": (1,), "encoder_hidden_states": (1, 12, 16)
    }  # fmt: skip
    assert {tensor.dtype for tensor in denoiser.inputs} == {"float32"}
    assert bundle.graph("text_encoder").inputs[0].dtype == "int32"
    names = {path.name for path in plain.iterdir()}
    assert names == {
        "coreml", "edgediff.json", "golden.json", "model_index.json", "scheduler", "tables", "text_encoder",
        "tokenizer", "unet", "vae_decoder", "vae_encoder",
    }  # fmt: skip


def test_pictures_are_those_of_the_onnx_bundle(plain: Path, tiny: Path, tmp_path: Path) -> None:
    export_onnx(str(tiny), str(tmp_path / "onnx"), verify=False)
    settings: dict[str, Any] = {"num_inference_steps": 4, "seed": 3, "output_type": "np"}
    want = edgediff.load(tmp_path / "onnx")("a b", **settings).images
    have = edgediff.load(plain, runtime="mil")("a b", **settings).images
    tally = Tally()
    tally.add(np.asarray(want), np.asarray(have))
    assert tally.snr_db > 40


def test_equal_exports_are_equal_bytes(plain: Path, tiny: Path, tmp_path: Path) -> None:
    export_coreml(str(tiny), str(tmp_path / "again"), receipt=False)
    assert manifest(plain)["files"] == manifest(tmp_path / "again")["files"]


@pytest.mark.parametrize("family", ["inpaint", "instruct", "xl", "refiner", "controls", "tiny autoencoder"])
def test_families(family: str, tmp_path: Path) -> None:
    source, options = FAMILIES[family](tmp_path)
    told = export_coreml(str(source), str(tmp_path / "out"), receipt=False, **options)
    bundle = Bundle.open(tmp_path / "out")
    bundle.verify()
    assert set(told["ran"]) == set(bundle.components)
    if family == "controls":
        names = set(specs(tmp_path / "out" / "coreml"))
        assert {"ControlledUnet", "controlnet/one", "controlnet/two"} <= names
    wide = {role: bundle.graph(role).precision for role in bundle.components}
    assert (wide["decoder"] == "fp32") == (family in ("xl", "refiner"))


def test_a_receipt_is_kept(tiny: Path, tmp_path: Path) -> None:
    told = export_coreml(str(tiny), str(tmp_path / "out"), quantize="palette-8")
    kept = manifest(tmp_path / "out")["quality"]
    assert kept == told["quality"] and kept["scheme"] == "palette-8" and "failed" not in kept
    assert min(each["snr_db"] for each in kept["components"].values()) > 30
    assert Bundle.open(tmp_path / "out").graph("denoiser").precision == "palette-8"
    assert (tmp_path / "out" / kept["file"]).is_file()


@pytest.mark.slow
def test_what_fails_its_gates_is_not_written(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"the floor is 120 dB.*--force"):
        export_coreml(str(tiny), str(tmp_path / "out"), min_psnr=120.0)
    assert not list(tmp_path.iterdir())
    told = export_coreml(str(tiny), str(tmp_path / "out"), min_psnr=120.0, force=True)
    assert told["quality"]["failed"] and manifest(tmp_path / "out")["quality"]["failed"]


def test_chunks_run_one_after_the_other(plain: Path, tiny: Path, tmp_path: Path) -> None:
    export_coreml(str(tiny), str(tmp_path / "out"), receipt=False, chunk=True)
    whole, cut = Bundle.open(plain), Bundle.open(tmp_path / "out")
    spec = cut.graph("denoiser")
    assert spec.stages == ("coreml/UnetChunk2.mlpackage/Data/com.apple.CoreML/model.mlmodel",)
    assert spec.inputs == whole.graph("denoiser").inputs
    rng = np.random.default_rng(0)
    given = {t.name: rng.standard_normal(t.dims).astype(np.float32) for t in spec.inputs}
    found = [
        runtime.find("mil").load(b.graph("denoiser"), b.path / b.graph("denoiser").file, "cpu", {}, {})(given)
        for b in (whole, cut)
    ]
    np.testing.assert_allclose(found[1]["out_sample"], found[0]["out_sample"], rtol=0, atol=2e-2)


def test_several_sizes_are_enumerated(tiny: Path, tmp_path: Path) -> None:
    export_coreml(str(tiny), str(tmp_path / "out"), receipt=False, sizes=((16, 24), (16, 16)))
    bundle = Bundle.open(tmp_path / "out")
    spec = bundle.graph("denoiser")
    assert spec.inputs[0].dims == (1, 4, 8, "width") and spec.extents == ({"width": 12}, {"width": 8})
    assert bundle.graph("encoder").extents == ({"width": 24}, {"width": 16})
    assert bundle.defaults.size == {"height": 16, "width": 24}
    sample = next(f for f in specs(bundle.path / "coreml")["Unet"].inputs if f.name == "sample")
    assert set(sample.shapes) == {(1, 4, 8, 12), (1, 4, 8, 8)}


def test_full_precision_and_a_batch(tiny: Path, tmp_path: Path) -> None:
    export_coreml(
        str(tiny), str(tmp_path / "out"), receipt=False, dtype="fp32", attention="original", batch=2,
        target="iOS18",
    )  # fmt: skip
    spec = Bundle.open(tmp_path / "out").graph("denoiser")
    assert (spec.profile, spec.precision) == ("original", "fp32")
    found = specs(tmp_path / "out" / "coreml")
    assert ports(found["Unet"])["sample"] == ("float32", (2, 4, 8, 8))
    assert ports(found["VAEDecoder"])["latent_sample"] == ("float32", (1, 4, 8, 8))
    types = {named.type.dtype for o in found["Unet"].main.block.operations for named in o.outputs}
    assert "float16" not in types


def test_coarse_palettes_spare_the_small_networks(tiny: Path) -> None:
    from edgediff.export.assemble import Asked, assemble
    from edgediff.export.main import build

    model = build(assemble(Asked(str(tiny))))

    def bits(part: Part, name: str, target: Any = "iOS17") -> int:
        return compression._scheme_for(part, scheme_of(name, target=target)).bits

    assert {p.role: bits(p, "palette-4") for p in model.parts} == {
        "text_encoder": 8, "denoiser": 4, "decoder": 8, "encoder": 8
    }  # fmt: skip
    assert {bits(p, "palette-6") for p in model.parts} == {6}
    assert [bits(p, "int4-weights", "iOS18") for p in model.parts] == [8, 4, 8, 8]


def test_a_dry_run_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    whole = export_coreml(str(tiny), str(tmp_path / "out"), dry_run=True)
    fine = export_coreml(str(tiny), str(tmp_path / "out"), dry_run=True, quantize="palette-4", chunk=True)
    assert not list(tmp_path.iterdir())
    assert whole["bytes"] == sum(whole["files"].values()) and fine["bytes"] < whole["bytes"] / 3
    assert {"coreml/UnetChunk1.mlpackage", "coreml/UnetChunk2.mlpackage"} <= fine["files"].keys()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"layout": "google"}, InputError, "known are edgediff, apple"),
        ({"dtype": "int8"}, InputError, "known are fp16, fp32"),
        ({"attention": "flash"}, InputError, "split-einsum, original, split-einsum-v2"),
        ({"target": "iOS15"}, InputError, "known are iOS17, iOS18"),
        ({"batch": 0}, InputError, "whole number of 1 to 16"),
        ({"sizes": ((17, 16),)}, InputError, "multiples of 2 and 2"),
        ({"sizes": ((16, -16),)}, InputError, "in pixels"),
        ({"sizes": ((16, 16), (16, 32)), "attention": "split-einsum-v2"}, UnsupportedError, "chunks"),
        ({"sizes": ((16, 16), (16, 32)), "chunk": True}, UnsupportedError, "second chunk"),
        ({"sizes": ((16, 16), (16, 32)), "layout": "apple"}, InputError, "feeds no other"),
        ({"guidance_scale": 3.0}, InputError, "only the layout apple"),
        ({"granularity": "per-tensor"}, InputError, "only with quantize"),
        ({"quantize": "palette-6", "dtype": "fp32"}, InputError, "compute in fp16"),
        ({"quantize": "palette-6", "max_size": 3.0}, InputError, "mixed"),
        ({"quantize": "palette-6", "calibration": "x"}, InputError, "int8 or mixed"),
        ({"quantize": "int8", "calibration": "nowhere"}, InputError, "no such file"),
        ({"quantize": "mixed", "plan": "nowhere"}, InputError, "no such file"),
        ({"quantize": "mixed", "max_size": 0.01}, InputError, "the smallest plan has 0.1"),
        ({"quantize": "mixed", "plan": __file__}, EdgediffError, "test_export_coreml_driver.py"),
        ({"min_psnr": 30.0, "receipt": False}, InputError, "nothing would be measured"),
        ({"min_psnr": -1.0}, InputError, "above 0"),
        ({"quantize": "palette-3"}, UnsupportedError, "iOS18"),
        ({"quantize": "int4-weights"}, UnsupportedError, "iOS18"),
        ({"quantize": "palette-5"}, InputError, "palette-6"),
    ],
)
def test_refused_before_any_work(
    options: dict[str, Any], kind: type[EdgediffError], message: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        export_coreml(str(tiny), str(tmp_path / "out"), **options)
    assert not list(tmp_path.iterdir())


def test_sizes_of_controlled_models(tmp_path: Path) -> None:
    source, options = FAMILIES["controls"](tmp_path)
    with pytest.raises(UnsupportedError, match="have more; export once for each size"):
        export_coreml(str(source), str(tmp_path / "out"), sizes=((16, 16), (32, 32)), **options)


def test_targets_are_replaced_only_when_asked(tiny: Path, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--overwrite"):
        export_coreml(str(tiny), str(plain))
    for layout in ("apple", "edgediff"):
        export_coreml(
            str(tiny), str(tmp_path / "out"), receipt=False, overwrite=True, layout=layout, force=True,
            verify=False,
        )  # fmt: skip
    assert (tmp_path / "out" / "coreml").is_dir() and not (tmp_path / "out" / "Unet.mlpackage").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="is not replaced"):
        export_coreml(str(tiny), str(tmp_path / "other"), overwrite=True)


_WITHOUT_TORCH = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers", "transformers", "sklearn"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
from edgediff.export.coreml.main import export_coreml
told = export_coreml(sys.argv[1], sys.argv[2], quantize="palette-6")
assert told["quality"]["components"]
assert not {"torch", "diffusers", "transformers", "sklearn"} & set(sys.modules)
"""


def test_neither_torch_nor_noise(tiny: Path, tmp_path: Path) -> None:
    """Nothing but the library's own words reaches the terminal."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, str(tiny), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "" and done.stderr == ""


def test_missing_coremltools_is_said_first(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(UnsupportedError, match=r"edgediff\[coreml\]"):
        export_coreml(str(tiny), str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_half_precision_that_overflows_is_refused(tmp_path: Path) -> None:
    from export_helpers import write_safetensors

    from edgediff.export.tensors import TensorFiles

    source = model_folder(tmp_path / "m")
    path = source / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = TensorFiles([path])
    held = {name: tensors.whole(name).astype(np.float32) for name in tensors.entries}
    held["conv_in.weight"] = held["conv_in.weight"] * 1e6
    write_safetensors(path, held)
    with pytest.raises(EdgediffError, match=r"conv_in\.weight"):
        export_coreml(str(source), str(tmp_path / "out"), receipt=False)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_text_encoders_of_the_larger_family(tmp_path: Path) -> None:
    export_coreml(str(xl_folder(tmp_path / "m")), str(tmp_path / "out"), receipt=False, verify=False)
    second = Bundle.open(tmp_path / "out").graph("text_encoder_2")
    assert [t.name for t in second.outputs][:1] == ["text_embeds"]
    assert json.loads((tmp_path / "out" / "text_encoder_2" / "config.json").read_text())["vocab_size"] == 40
