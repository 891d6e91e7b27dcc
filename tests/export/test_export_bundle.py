"""A whole bundle: its layout, manifest, weights file and determinism."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from export_helpers import TINY_UNET, TINY_VAE, model_folder, run, write_json
from tokenizers import Tokenizer

import edgediff
from edgediff import tables
from edgediff.errors import SourceError
from edgediff.export.families.defaults import sampler_name
from edgediff.export.main import export_onnx
from edgediff.export.tensors import TensorFiles

SCHEMA = Path(edgediff.__file__).with_name("bundle.schema.json")
GRAPHS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = model_folder(tmp_path_factory.mktemp("source") / "model")
    (folder / "README.md").write_text("---\ntags:\n- x\nlicense: apache-2.0\n---\n# A model\n")
    return folder


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def bundle(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "out"
    lines: list[str] = []
    result = export_onnx(str(model), str(out), dtype=request.param, report=lines.append)
    assert result["ran"]
    assert result["precision"] == request.param
    assert lines[0] == "note: safety_checker is not part of the bundle"
    assert "writing unet" in lines
    return out


def manifest(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "edgediff.json").read_text(encoding="utf-8"))
    return content


def test_manifest(bundle: Path) -> None:
    found = manifest(bundle)
    jsonschema.validate(found, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert found["origin"] == {"source": "model", "revision": None, "license": "apache-2.0"}
    assert found["model"]["latents"] == {
        "channels": 4,
        "axes": ["batch", "channels", "height", "width"],
        "downscale": {"height": 2, "width": 2},
        "scaling_factor": 0.18215,
        "shift_factor": 0.0,
    }
    assert found["model"]["text"] == {"length": 12, "tokenizer": "tokenizer/tokenizer.json"}
    assert found["model"]["guidance_embedding"] is None
    # diffusers' pipelines correct these two, whatever an early checkpoint's file says or leaves out.
    corrected = {"steps_offset": 1, "clip_sample": False}
    assert found["model"]["scheduler"] == {
        "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, **corrected,
    }  # fmt: skip
    assert found["defaults"] == {
        "sampler": "ddim",
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "size": {"height": 16, "width": 16},
    }
    assert list(found["components"]) == ["text_encoder", "denoiser", "decoder", "encoder"]


def test_files_are_listed_with_their_hashes(bundle: Path) -> None:
    listed = manifest(bundle)["files"]
    there = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert there == {*listed, "edgediff.json"}
    for name, facts in listed.items():
        data = (bundle / name).read_bytes()
        assert facts == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for folder in GRAPHS:
        for name in ("model.onnx", "model.onnx_data", "config.json", "parameters.json"):
            assert f"{folder}/{name}" in there
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json"):
        assert f"tokenizer/{name}" in there


def test_graphs_are_as_the_manifest_says(bundle: Path) -> None:
    graphs = [entry for part in manifest(bundle)["components"].values() for entry in part["graphs"]]
    assert {entry["profile"] for entry in graphs} == {"portable", "ort-cpu"}
    for entry in graphs:
        portable = entry["profile"] == "portable"
        onnx.checker.check_model(str(bundle / entry["file"]), full_check=True)
        model = onnx.load(bundle / entry["file"], load_external_data=False)
        assert model.ir_version <= 10
        sets = {each.domain: each.version for each in model.opset_import}
        assert sets == ({"": 18} if portable else {"": 18, "com.microsoft": 1})
        assert {node.domain for node in model.graph.node} <= sets.keys()
        for kind in ("input", "output"):
            for listed, found in zip(entry[f"{kind}s"], getattr(model.graph, kind), strict=True):
                dims = [dim.dim_param or dim.dim_value for dim in found.type.tensor_type.shape.dim]
                assert (listed["name"], listed["dims"]) == (found.name, dims)
                wanted = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}[listed["dtype"]]
                assert found.type.tensor_type.elem_type == wanted


def test_weights_file_has_no_gaps_but_alignment(bundle: Path) -> None:
    for folder in GRAPHS:
        model = onnx.load(bundle / folder / "model.onnx", load_external_data=False)
        spans = []
        for tensor in model.graph.initializer:
            about = {pair.key: pair.value for pair in tensor.external_data}
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                assert about["location"] == "model.onnx_data"
                spans.append((int(about["offset"]), int(about["length"])))
            else:
                assert len(tensor.raw_data) < 1024
        at = 0
        for offset, length in sorted(spans):
            assert offset % 64 == 0
            assert 0 <= offset - at < (4096 if length >= 1 << 20 else 64)
            at = offset + length
        assert at == (bundle / folder / "model.onnx_data").stat().st_size


def test_parameters_lead_from_the_checkpoint_to_the_graph(bundle: Path, model: Path) -> None:
    sources = {
        "text_encoder": "text_encoder/model.safetensors",
        "unet": "unet/diffusion_pytorch_model.safetensors",
        "vae_decoder": "vae/diffusion_pytorch_model.safetensors",
    }
    for folder, source in sources.items():
        tensors = TensorFiles([model / source])
        loaded = onnx.load(bundle / folder / "model.onnx")
        held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
        table = json.loads((bundle / folder / "parameters.json").read_text())["parameters"]
        assert any(about["transposed"] for about in table.values())
        for name, about in table.items():
            original = tensors.whole(name) * about["scale"]
            turned = original.T if about["transposed"] else original
            stored = held[about["initializer"]]
            assert (list(stored.shape), stored.dtype.name) == (about["shape"], about["dtype"])
            np.testing.assert_array_equal(stored, turned.reshape(stored.shape).astype(stored.dtype))


def test_fp16_halves_the_file(model: Path, tmp_path: Path) -> None:
    sizes = {}
    for dtype in ("fp32", "fp16"):
        export_onnx(str(model), str(tmp_path / dtype), dtype=dtype, verify=False)
        sizes[dtype] = (tmp_path / dtype / "unet/model.onnx_data").stat().st_size
    assert sizes["fp16"] < 0.55 * sizes["fp32"]


def test_two_exports_are_equal(model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_onnx(str(model), str(tmp_path / name), dtype="fp16", verify=False)
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_overwrite(model: Path, tmp_path: Path) -> None:
    export_onnx(str(model), str(tmp_path / "out"), verify=False)
    export_onnx(str(model), str(tmp_path / "out"), dtype="fp16", overwrite=True, verify=False)
    assert manifest(tmp_path / "out")["components"]["denoiser"]["graphs"][0]["precision"] == "fp16"


def test_index_declares_what_is_not_carried_absent(bundle: Path) -> None:
    index = json.loads((bundle / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == [None, None]
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]


def test_tokenizer_pads_words_with_both_ends(bundle: Path) -> None:
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer/tokenizer.json"))
    assert tokenizer.encode(" AB  c").tokens == ["<|startoftext|>", "ab</w>", "c</w>", "<|endoftext|>"]


def test_tokenizer_of_one_file_gets_its_classic_form(model: Path, bundle: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    modern = (bundle / "tokenizer/tokenizer.json").read_bytes()
    (folder / "tokenizer/tokenizer.json").write_bytes(modern)
    (folder / "tokenizer/vocab.json").unlink()
    (folder / "tokenizer/merges.txt").unlink()
    export_onnx(str(folder), str(tmp_path / "out"), verify=False)
    assert (tmp_path / "out/tokenizer/tokenizer.json").read_bytes() == modern
    for name in ("vocab.json", "merges.txt"):
        made, wanted = ((place / "tokenizer" / name).read_text() for place in (tmp_path / "out", model))
        assert json.loads(made) == json.loads(wanted) if name == "vocab.json" else made == wanted


def test_guided_and_distilled_defaults(tmp_path: Path) -> None:
    folder = model_folder(
        tmp_path / "model",
        unet={**TINY_UNET, "time_cond_proj_dim": 6, "sample_size": [8, 12]},
        vae={**TINY_VAE, "shift_factor": 0.25, "scaling_factor": 0.5},
        scheduler={"_class_name": "LCMScheduler"},
    )
    export_onnx(str(folder), str(tmp_path / "out"))
    found = manifest(tmp_path / "out")
    assert found["model"]["guidance_embedding"] == {"dims": 6}
    assert found["model"]["latents"]["shift_factor"] == 0.25
    assert found["defaults"] == {
        "sampler": "lcm",
        "num_inference_steps": 4,
        "guidance_scale": 8.5,
        "size": {"height": 16, "width": 24},
        "recipe": "lcm",
        "limits": {
            "guidance_scale": {"low": 2, "high": 14, "outside": "warn"},
            "num_inference_steps": {"low": 1, "high": 8, "outside": "warn"},
        },
    }
    inputs = [tensor["name"] for tensor in found["components"]["denoiser"]["graphs"][0]["inputs"]]
    assert inputs == ["sample", "timestep", "encoder_hidden_states", "timestep_cond"]
    write_json(
        folder / "edgediff_defaults.json", {"defaults": {"num_inference_steps": 2, "guidance_scale": 3}}
    )
    export_onnx(str(folder), str(tmp_path / "two"), verify=False)
    assert manifest(tmp_path / "two")["defaults"]["num_inference_steps"] == 2
    assert manifest(tmp_path / "two")["defaults"]["guidance_scale"] == 3


def test_infinite_scheduler_settings_are_left_out(tmp_path: Path) -> None:
    scheduler = {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": float("-inf")}
    folder = model_folder(tmp_path / "model", scheduler=scheduler)
    export_onnx(str(folder), str(tmp_path / "out"), verify=False)
    kept = {"_class_name": "DPMSolverMultistepScheduler", "steps_offset": 1}
    assert manifest(tmp_path / "out")["model"]["scheduler"] == kept
    assert manifest(tmp_path / "out")["defaults"]["sampler"] == "dpmpp_2m"


def test_the_table_of_the_default_settings(bundle: Path) -> None:
    found = manifest(bundle)
    (entry,) = found["tables"]
    assert entry["sampler"] == found["defaults"]["sampler"]
    assert entry["num_inference_steps"] == found["defaults"]["num_inference_steps"]
    assert entry["file"] in found["files"]
    table = tables.load(bundle / entry["file"])
    assert (table.sampler, table.steps) == (entry["sampler"], entry["num_inference_steps"])


def test_a_scheduler_without_a_sampler_has_no_table(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", scheduler={"_class_name": "RePaintScheduler"})
    made = export_onnx(str(folder), str(tmp_path / "out"), verify=False)
    assert any("no sampler table" in note for note in made["notes"])
    assert manifest(tmp_path / "out")["tables"] == []


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    vocabulary["stranger"] = 10**6
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(SourceError, match="of different models"):
        export_onnx(str(folder), str(tmp_path / "out"), verify=False)


def test_inpainting_model(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", unet={**TINY_UNET, "in_channels": 9})
    export_onnx(str(folder), str(tmp_path / "out"), verify=False)
    assert manifest(tmp_path / "out")["model"]["tasks"] == ["inpaint"]


@pytest.mark.parametrize(
    ("class_name", "sampler"),
    [
        ("PNDMScheduler", "pndm"),
        ("EulerDiscreteScheduler", "euler"),
        ("EulerAncestralDiscreteScheduler", "euler_ancestral"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("HeunDiscreteScheduler", "heun"),
        ("UniPCMultistepScheduler", "unipc"),
        ("RePaintScheduler", "re_paint"),
    ],
)
def test_sampler_names(class_name: str, sampler: str) -> None:
    assert sampler_name(class_name) == sampler


def test_sizes_and_batch_are_free(bundle: Path) -> None:
    rng = np.random.default_rng(0)
    for batch, height, width, words in ((1, 8, 8, 12), (3, 7, 10, 5)):
        sample = rng.standard_normal((batch, 4, height, width), np.float32)
        text = rng.standard_normal((batch, words, 16), np.float32)
        time = np.array([3.5], np.float32)
        inputs = {"sample": sample, "timestep": time, "encoder_hidden_states": text}
        whole = run(bundle / "unet/model.onnx", inputs)["out_sample"]
        assert whole.shape == sample.shape
        first = {"sample": sample[:1], "timestep": time, "encoder_hidden_states": text[:1]}
        alone = run(bundle / "unet/model.onnx", first)["out_sample"]
        np.testing.assert_allclose(whole[:1], alone, atol=2e-5)
