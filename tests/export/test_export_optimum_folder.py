"""A folder of graphs becomes a bundle: what the manifest says of it, and what is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgediff
from edgediff import golden
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, CheckFailed, EdgediffError, InputError, SourceError, UnsupportedError
from edgediff.export.main import export_onnx
from edgediff.export.optimum import graph_files
from edgediff.export.optimum.facts import family_of
from edgediff.export.optimum.folder import add_manifest, is_optimum_folder
from tests import graphs, tiny

CONFIGS: dict[str, dict[str, Any]] = {
    "model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        "_name_or_path": "somebody/tiny",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "requires_safety_checker": True,
    },
    "text_encoder/config.json": {"max_position_embeddings": tiny.LENGTH, "hidden_size": 8},
    "unet/config.json": {"in_channels": 4, "sample_size": 4},
    "vae_decoder/config.json": {"block_out_channels": [8, 8, 8, 8], "scaling_factor": 0.18215},
    "scheduler/scheduler_config.json": {**tiny.SCHEDULER, "steps_offset": 0},
}
FILES = {"text_encoder": "text_encoder", "denoiser": "unet", "decoder": "vae_decoder"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What Optimum leaves behind, with small graphs."""
    place = tmp_path / "optimum"
    for name, value in CONFIGS.items():
        write(place, name, value)
    for role, data in graphs.text2image().items():
        (place / FILES[role] / "model.onnx").write_bytes(data)
    tiny.write_tokenizer(place / "tokenizer")
    (place / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return place


def write(folder: Path, name: str, value: Any) -> None:
    """Write one configuration."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def change(folder: Path, name: str, how: Callable[[Any], None]) -> None:
    """Load a graph, change it, and write it back."""
    model = onnx.load(str(folder / name))
    how(model)
    (folder / name).write_bytes(model.SerializeToString())


def test_a_bundle_that_draws_the_same(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    summary = export_onnx(str(folder), str(tmp_path / "bundle"), report=lines.append)
    assert summary["ran"] is True
    assert summary["precision"] == "fp32"
    assert "note: safety_checker is not part of the bundle" in lines
    bundle = Bundle.open(tmp_path / "bundle")
    bundle.verify()
    assert bundle.origin == {"source": "somebody/tiny", "revision": None, "license": "apache-2.0"}
    assert bundle.text is not None
    assert bundle.text.tokenizer == "tokenizer/tokenizer.json"
    assert bundle.scheduler["steps_offset"] == 1  # as the pipeline corrects it
    assert bundle.defaults.sampler == "ddim"
    assert set(golden.read(bundle)) == {"text_encoder", "denoiser", "decoder"}
    for name in FILES.values():
        assert (folder / name / "model.onnx").read_bytes() == (
            tmp_path / "bundle" / name / "model.onnx"
        ).read_bytes()
    index = json.loads((tmp_path / "bundle" / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    assert index["requires_safety_checker"] is False
    pictures = []
    for place in (folder, tmp_path / "bundle"):
        with edgediff.load(place) as pipe:
            pictures.append(pipe("a red circle", seed=0, num_inference_steps=3, output_type="np").images)
    assert pictures[0].std() > 0
    assert np.array_equal(*pictures)


def test_the_manifest_is_what_the_schema_says(folder: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    add_manifest(folder, tmp_path / "bundle")
    schema = json.loads((Path(edgediff.__file__).parent / "bundle.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(
        json.loads((tmp_path / "bundle" / "edgediff.json").read_text())
    )


def test_weights_beside_a_graph_come_along(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(str(folder / "text_encoder/model.onnx"))
    place = str(folder / "text_encoder/model.onnx")
    onnx.save_model(model, place, save_as_external_data=True, location="weights.pb")
    add_manifest(folder, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.graph("text_encoder").weights == ("text_encoder/weights.pb",)
    bundle.verify()


def test_an_old_export_without_configurations(folder: Path, tmp_path: Path) -> None:
    """diffusers' first script wrote graphs alone, and a timestep of integers, one for each picture."""
    for name in ("unet", "vae_decoder", "text_encoder"):
        (folder / name / "config.json").unlink()
    write(folder, "model_index.json", {"_class_name": "OnnxStableDiffusionPipeline"})

    def named(name: str, *shape: int) -> Callable[[Any], None]:
        def add(model: Any) -> None:
            model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))

        return add

    def integers(model: Any) -> None:
        (step,) = [v for v in model.graph.input if v.name == "timestep"]
        step.CopyFrom(helper.make_tensor_value_info("timestep", TensorProto.INT64, ["batch"]))
        for node in model.graph.node:
            node.input[:] = ["the_step" if name == "timestep" else name for name in node.input]
        first = helper.make_node("ReduceMax", ["as_float"], ["the_step"], keepdims=0)
        cast = helper.make_node("Cast", ["timestep"], ["as_float"], to=TensorProto.FLOAT)
        nodes = [cast, first, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    change(folder, "unet/model.onnx", named("conv_in.weight", 8, 4, 3, 3))
    change(folder, "unet/model.onnx", integers)
    change(folder, "vae_decoder/model.onnx", named("post_quant_conv.weight", 4, 4, 1, 1))
    for i in range(4):
        change(folder, "vae_decoder/model.onnx", named(f"decoder.up_blocks.{i}.bias", 1))
    position = "text_model.embeddings.position_embedding.weight"
    change(folder, "text_encoder/model.onnx", named(position, tiny.LENGTH, 8))
    with pytest.raises(BundleError, match=r"unet/config.json"):
        Bundle.open(folder)
    add_manifest(folder, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.latents.downscale == {"height": 8, "width": 8}
    assert bundle.tasks == ("text2image", "image2image", "inpaint")
    assert bundle.graph("denoiser").inputs[1].dtype == "int64"
    with edgediff.load(bundle) as pipe:
        size = {"height": 32, "width": 32}
        assert pipe("a red circle", seed=0, num_inference_steps=2, **size).images[0].size == (32, 32)


def cut(folder: Path) -> None:
    data = (folder / "unet/model.onnx").read_bytes()
    (folder / "unet/model.onnx").write_bytes(data[: len(data) // 2])


def outside(location: str) -> Callable[[Path], None]:
    def place(folder: Path) -> None:
        def move(model: Any) -> None:
            tensor = model.graph.initializer[0]
            size = len(numpy_helper.to_array(tensor).tobytes())
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)

        change(folder, "unet/model.onnx", move)

    return place


def nan(folder: Path) -> None:
    def spoil(model: Any) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                spoilt = np.full_like(numpy_helper.to_array(tensor), np.nan)
                tensor.CopyFrom(numpy_helper.from_array(spoilt, tensor.name))

    change(folder, "unet/model.onnx", spoil)


def custom(folder: Path) -> None:
    def add(model: Any) -> None:
        model.graph.node[0].domain = "evil.ops"
        model.opset_import.append(helper.make_opsetid("evil.ops", 1))

    change(folder, "unet/model.onnx", add)


def double(folder: Path) -> None:
    def widen(model: Any) -> None:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE

    change(folder, "unet/model.onnx", widen)


def text(name: str, content: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).write_text(content)

    return put


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


FAULTS: dict[str, tuple[Callable[[Path], None], type[EdgediffError], str]] = {
    "a cut graph": (cut, SourceError, "not an ONNX graph"),
    "a pointer": (text("unet/model.onnx", "version https://git-lfs.github.com"), SourceError, "git lfs pull"),
    "a web page": (text("unet/model.onnx", "<html>"), SourceError, "web page"),
    "an empty graph": (text("unet/model.onnx", ""), SourceError, "empty"),
    "weights above": (outside("../secret"), SourceError, "only a file beside the graph"),
    "weights at the root": (outside("/etc/passwd"), SourceError, "only a file beside the graph"),
    "weights on a drive": (outside("C:secret"), SourceError, "only a file beside the graph"),
    "weights missing": (outside("model.onnx_data"), SourceError, "model.onnx_data: this file of weights"),
    "NaN": (nan, CheckFailed, "NaN or Inf"),
    "an operator of its own": (custom, CheckFailed, "not allowed"),
    "doubles": (double, UnsupportedError, "of type 11"),
    "no tokenizer": (gone("tokenizer/merges.txt"), SourceError, "tokenizer"),
    "no scheduler": (gone("scheduler/scheduler_config.json"), BundleError, "scheduler_config.json"),
    "no decoder": (gone("vae_decoder/model.onnx"), BundleError, "no graph for decoder"),
    "a broken index": (text("model_index.json", "{"), SourceError, "model_index.json"),
    "a nameless scheduler": (text("scheduler/scheduler_config.json", "{}"), SourceError, "_class_name"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_said_and_nothing_is_left(folder: Path, tmp_path: Path, name: str) -> None:
    spoil, kind, says = FAULTS[name]
    spoil(folder)
    with pytest.raises(kind, match=re.escape(says)) as caught:
        add_manifest(folder, tmp_path / "bundle")
    assert ".partial" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"optimum"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"dtype": "fp16"}, "taken as they are"),
        ({"loras": ["a.safetensors"]}, "loras: only for models"),
        ({"parts": {"vae": "other"}, "dry_run": True}, "parts, dry_run: only for models"),
        ({"recipe": "no-such"}, "recipe 'no-such' is unknown"),
        ({"profiles": ["portable", "ort-cuda"]}, "profiles: only for models"),
    ],
)
def test_what_would_change_a_graph_is_refused(
    folder: Path, tmp_path: Path, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        export_onnx(str(folder), str(tmp_path / "bundle"), **arguments)
    assert not (tmp_path / "bundle").exists()


def test_a_recipe_is_recognised_or_told(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    write(folder, "model_index.json", {**CONFIGS["model_index.json"], "_name_or_path": "somebody/sd-turbo"})
    export_onnx(str(folder), str(tmp_path / "one"), report=lines.append)
    assert any("drawn as turbo models are, by its name somebody/sd-turbo" in line for line in lines)
    bundle = Bundle.open(tmp_path / "one")
    assert (bundle.defaults.num_inference_steps, bundle.defaults.guidance_scale) == (1, 0.0)
    assert bundle.scheduler["timestep_spacing"] == "trailing"
    export_onnx(str(folder), str(tmp_path / "two"), recipe="lcm-lora")
    assert Bundle.open(tmp_path / "two").defaults.sampler == "lcm"
    export_onnx(str(folder), str(tmp_path / "three"), recipe="none")
    assert Bundle.open(tmp_path / "three").defaults.num_inference_steps == 20


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_folder_of_links_becomes_a_folder_of_files(folder: Path, tmp_path: Path) -> None:
    """As Hugging Face's cache keeps them; without a manifest such a folder is not opened."""
    for i, path in enumerate([path for path in folder.rglob("*") if path.is_file()]):
        path.rename(tmp_path / f"blob{i}")
        path.symlink_to(tmp_path / f"blob{i}")
    add_manifest(folder, tmp_path / "bundle")
    files = [path for path in (tmp_path / "bundle").rglob("*") if path.is_file()]
    assert not any(path.is_symlink() for path in files)
    Bundle.open(tmp_path / "bundle").verify()


def test_a_checkpoint_is_no_such_folder(folder: Path) -> None:
    assert is_optimum_folder(folder)
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"")  # it has its weights as well, which can be written in any precision
    assert not is_optimum_folder(folder)
    weights.unlink()
    (folder / "unet/model.onnx").unlink()
    assert not is_optimum_folder(folder)


def test_a_bundle_is_one_already(folder: Path, tmp_path: Path) -> None:
    add_manifest(folder, tmp_path / "bundle")
    with pytest.raises(InputError, match="is a bundle already"):
        export_onnx(str(tmp_path / "bundle"), str(tmp_path / "again"))


def test_without_the_kernels_copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between file systems bytes are read and written."""

    def refused(*_: Any) -> int:
        raise OSError(18, "Invalid cross-device link")

    if hasattr(os, "copy_file_range"):
        monkeypatch.setattr(graph_files.os, "copy_file_range", refused)
    add_manifest(folder, tmp_path / "bundle")
    Bundle.open(tmp_path / "bundle").verify()


@pytest.mark.parametrize(
    ("kinds", "label"),
    [
        ([TensorProto.FLOAT], "fp32"),
        ([TensorProto.FLOAT16, TensorProto.FLOAT], "fp16"),
        ([TensorProto.INT8, TensorProto.FLOAT], "int8-weights"),
        ([TensorProto.UINT4], "int4-weights"),
    ],
)
def test_precision_is_that_of_the_matrices(kinds: list[int], label: str) -> None:
    tensors = [helper.make_tensor(f"w{kind}", kind, [2, 2], [0, 1, 1, 0]) for kind in kinds]
    assert graph_files._precision(helper.make_graph([], "tiny", [], [], tensors)) == label


@pytest.mark.parametrize(
    ("pipeline", "family"),
    [
        ("StableDiffusion3Pipeline", "stable-diffusion-3"),
        ("FluxImg2ImgPipeline", "flux"),
        ("SanaPipeline", "sana"),
        ("PixArtSigmaPipeline", "pixart"),
        ("AuraFlowPipeline", "aura-flow"),
    ],
)
def test_families_have_plain_names(pipeline: str, family: str) -> None:
    assert family_of(pipeline) == family
