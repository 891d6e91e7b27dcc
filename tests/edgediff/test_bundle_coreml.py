"""Bundles of Core ML packages, as the library sees them: choice of runtime, fixed sizes, whole packages."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgediff
from edgediff import batches, extents, runtime
from edgediff.bundle import Bundle, TensorSpec, package_of
from edgediff.errors import BundleError, InputError, IntegrityError, UnsupportedError
from edgediff.mil_ports import feature, features
from edgediff.parts import Parts
from tests import tiny
from tests.edgediff import coreml_bundle
from tests.edgediff.coreml_bundle import files_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return coreml_bundle.write(tmp_path / "bundle")


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A bundle whose packages take 32x32, 32x48 and 64x32 (width first)."""
    return coreml_bundle.write(tmp_path / "bundle", [(4, 4), (6, 4), (4, 8)])


def test_auto_is_the_runtime_of_the_graphs(folder: Path, fake_bundle: Path) -> None:
    assert runtime.chosen("auto", Bundle.open(folder)) == "coreml"
    assert runtime.chosen("auto", Bundle.open(fake_bundle)) == "onnxruntime"
    assert runtime.chosen("mil", Bundle.open(folder)) == "mil"


def test_a_bundle_with_both_kinds_runs_its_onnx_graphs(folder: Path) -> None:
    def both(manifest: dict[str, Any]) -> None:
        for role, part in tiny.COMPONENTS.items():
            onnx = {**part["graphs"][0], "file": "tokenizer/tokenizer.json"}
            manifest["components"][role]["graphs"].append(onnx)
        manifest["profiles"] = {"cpu": ["ort-cpu"]}

    shutil.rmtree(folder)
    bundle = Bundle.open(coreml_bundle.write(folder, change=both))
    assert runtime.chosen("auto", bundle) == "onnxruntime"
    assert bundle.graph("denoiser", "onnxruntime").runtime == "onnxruntime"
    assert bundle.graph("denoiser", "coreml", "coreml-ne").file == files_of("Unet")[0]
    assert not extents.sizes(bundle)  # the portable graphs take any


def test_each_runtime_gets_what_it_reads(folder: Path) -> None:
    assert runtime.reads(runtime.find("null"), "null") is None
    assert runtime.reads(runtime.find("onnxruntime"), "onnxruntime") == "onnxruntime"
    assert runtime.reads(runtime.find("coreml"), "coreml") == "coreml"
    assert runtime.reads(types.SimpleNamespace(), "somebody's") == "somebody's"  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="no graph for denoiser for onnxruntime"):
        Parts(Bundle.open(folder), runtime="onnxruntime").graph("denoiser")


def test_away_from_a_mac_the_message_says_what_runs_here(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    with (
        pytest.raises(UnsupportedError, match=r"Core ML needs macOS.*--runtime mil"),
        edgediff.load(folder) as pipe,
    ):
        pipe("a")


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("count", [1, 3])
def test_the_default_size_works(folder: Path, guidance: float, count: int) -> None:
    with edgediff.load(folder, runtime="null") as pipe:
        drawn = pipe("a", guidance_scale=guidance, num_images_per_prompt=count, seed=0).images
        assert [picture.size for picture in drawn] == [(32, 32)] * count
        assert all(info.inputs[0].dims[0] == 1 for info in pipe.infos().values())


def test_another_size_is_refused_before_anything_is_loaded(folder: Path) -> None:
    with edgediff.load(folder, runtime="null") as pipe:
        with pytest.raises(InputError, match=r"64x32 was asked for; .* made for 32x32 alone"):
            pipe("a", width=64)
        with pytest.raises(InputError, match="40x32 was asked for"):
            pipe.image2image("a", Image.new("RGB", (40, 32)))
        assert not pipe.infos()


def test_a_picture_of_another_size_is_fitted(folder: Path) -> None:
    with edgediff.load(folder, runtime="null") as pipe:
        drawn = pipe.image2image("a", Image.new("RGB", (400, 300)), fit="crop", seed=0).images[0]
        assert drawn.size == (32, 32)
        mask = Image.new("L", (400, 300), 255)
        drawn = pipe.inpaint("a", Image.new("RGB", (400, 300)), mask, fit="resize", seed=0).images[0]
        assert drawn.size == (32, 32)


def test_several_sizes(several: Path) -> None:
    bundle = Bundle.open(several)
    assert [extents.told(size) for size in extents.sizes(bundle)] == ["32x32", "32x48", "64x32"]
    with edgediff.load(bundle, runtime="null") as pipe:
        for width, height in ((32, 32), (32, 48), (64, 32)):
            assert pipe("a", width=width, height=height, seed=0).images[0].size == (width, height)
        with pytest.raises(
            InputError, match=r"64x48 was asked for; .* made for 32x32 or 32x48 or 64x32 alone"
        ):
            pipe("a", width=64, height=48)
        wide = pipe.image2image("a", Image.new("RGB", (500, 250)), fit="crop", seed=0).images[0]
        assert wide.size == (64, 32)  # the nearest in shape


def test_a_graph_of_several_sizes_names_them() -> None:
    spec = TensorSpec("x", "float32", (1, 4, "h", "w"))
    info = runtime.GraphInfo(
        "t", "cpu", "t", "fp32", (spec,), (), extents=({"h": 4, "w": 4}, {"h": 6, "w": 4})
    )
    graph: Any = types.SimpleNamespace(info=info)
    with pytest.raises(InputError, match=r"x: .* takes h, w of \(4, 4\) or \(6, 4\), not \(1, 4, 6, 6\)"):
        batches.run(graph, {"x": np.zeros((1, 4, 6, 6), np.float32)})


def test_a_denoiser_and_a_decoder_of_other_sizes_have_some_in_common(tmp_path: Path) -> None:
    def fewer(manifest: dict[str, Any]) -> None:
        manifest["components"]["decoder"]["graphs"][0]["extents"] = [{"latent_height": 6, "latent_width": 4}]

    bundle = Bundle.open(coreml_bundle.write(tmp_path / "bundle", [(4, 4), (6, 4)], fewer))
    assert extents.sizes(bundle) == ({"height": 48, "width": 32},)


def test_package_of() -> None:
    assert package_of("coreml/Unet.mlpackage/Data/x/model.mlmodel") == "coreml/Unet.mlpackage"
    assert package_of("coreml/controlnet/A.mlmodelc/coremldata.bin") == "coreml/controlnet/A.mlmodelc"
    assert package_of("coreml/Unet.mlpackage") is None
    assert package_of("unet/model.onnx") is None


@pytest.mark.parametrize(
    "place",
    ["coreml/Unet.mlpackage/more.bin", "coreml/Unet.mlpackage/Data/more.bin",
     "coreml/Unet.mlpackage/Data/com.apple.CoreML/weights/1-weight.bin",
     "coreml/Unet.mlpackage/Data/com.apple.CoreML/more/deep/more.bin"],
)  # fmt: skip
def test_nothing_else_lies_in_a_package(folder: Path, place: str) -> None:
    Bundle.open(folder).verify()
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_bytes(b"more")
    with pytest.raises(BundleError, match=r"more\.bin|1-weight\.bin"):
        Bundle.open(folder).verify()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_all_files_of_a_package_are_compared_before_it_is_opened(folder: Path, which: int) -> None:
    (folder / files_of("Unet")[which]).write_bytes(b"other data")
    with pytest.raises(IntegrityError, match="sha256"):
        Parts(Bundle.open(folder), runtime="null").graph("denoiser")


def test_later_pieces_are_compared_too(tmp_path: Path) -> None:
    def pieces(manifest: dict[str, Any]) -> None:
        graph = manifest["components"]["denoiser"]["graphs"][0]
        graph["stages"] = [files_of("VAEDecoder")[0]]

    folder = coreml_bundle.write(tmp_path / "bundle", change=pieces)
    spec = Bundle.open(folder).graph("denoiser")
    assert spec.files == (*files_of("Unet")[:1], *spec.stages, *files_of("Unet")[1:])
    (folder / spec.stages[0]).write_bytes(b"other data")
    with pytest.raises(IntegrityError, match="VAEDecoder"):
        Parts(Bundle.open(folder), runtime="null").graph("denoiser")


def test_names_of_ports() -> None:
    assert feature("hidden_states.11") == "hidden_states_11"
    assert feature("0.weight") == "_0_weight"
    tensors = [TensorSpec(name, "float32", (1,)) for name in ("sample", "hidden_states.1")]
    found = features(tensors, {"sample", "hidden_states_1", "more"}, "here")
    assert found == {"sample": "sample", "hidden_states.1": "hidden_states_1"}
    with pytest.raises(BundleError, match=r"lists hidden_states\.1, the package has sample"):
        features(tensors, {"sample"}, "here")
    twice = [TensorSpec(name, "float32", (1,)) for name in ("a.b", "a-b")]
    with pytest.raises(BundleError, match="lists a-b"):
        features(twice, {"a_b"}, "here")


def test_tokens_that_the_text_encoder_does_not_know(folder: Path) -> None:
    """Its configuration does not lie beside the graph; some devices answer an unknown number with another."""
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "config.json").write_text('{"vocab_size": 3}')
    with (
        pytest.raises(BundleError, match="knows 3 tokens"),
        edgediff.load(folder, runtime="null") as pipe,
    ):
        pipe("a")


def test_a_bundle_without_golden_values_is_drawn_at_its_own_size(folder: Path) -> None:
    from edgediff import checks

    found = checks.check(Bundle.open(folder), runtime="null")
    assert found["graphs"] == dict.fromkeys(json.loads((folder / "edgediff.json").read_text())["components"])
