"""Which files are fetched of a repository: the lists are those of well-known ones, as they stood in 2025."""

from __future__ import annotations

from typing import Any

import pytest

from edgediff.errors import InputError, SourceError
from edgediff.hub import files as hub_files

CARD = ["README.md", ".gitattributes"]
TOKENIZER = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]


def component(folder: str, stem: str, *endings: str) -> list[str]:
    """Name a network's files: its configuration, and weights with these endings."""
    return [f"{folder}/config.json", *(f"{folder}/{stem}{ending}" for ending in endings)]


ALL = (".bin", ".fp16.bin", ".safetensors", ".fp16.safetensors")
SD15 = [
    *CARD, "model_index.json", "v1-inference.yaml",
    "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.safetensors",
    "feature_extractor/preprocessor_config.json", "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER),
    *component("safety_checker", "model", *ALL),
    *component("text_encoder", "model", *ALL),
    *component("unet", "diffusion_pytorch_model", *ALL, ".non_ema.safetensors"),
    *component("vae", "diffusion_pytorch_model", *ALL),
]  # fmt: skip
INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
    "requires_safety_checker": True,
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SD15_WANTED = {
    "README.md", "model_index.json", "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER),
    "text_encoder/config.json", "text_encoder/model.safetensors",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
}  # fmt: skip
SDXL = [
    *CARD, "model_index.json", "sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_0.9vae.safetensors", "01.png",
    "scheduler/scheduler_config.json",
    *(f"{folder}/{name}" for folder in ("tokenizer", "tokenizer_2") for name in TOKENIZER),
    *(f"{f}/{n}" for f in ("text_encoder", "text_encoder_2") for n in (
        "config.json", "flax_model.msgpack", "model.fp16.safetensors", "model.onnx", "model.onnx_data",
        "model.safetensors", "openvino_model.bin", "openvino_model.xml")),
    *component("unet", "diffusion_pytorch_model", ".fp16.safetensors", ".safetensors"),
    "unet/model.onnx", "unet/model.onnx_data", "unet/openvino_model.bin", "unet/openvino_model.xml",
    *component("vae", "diffusion_pytorch_model", ".fp16.safetensors", ".safetensors"),
    *component("vae_1_0", "diffusion_pytorch_model", ".fp16.safetensors", ".safetensors"),
    "vae_decoder/config.json", "vae_decoder/model.onnx", "vae_decoder/openvino_model.xml",
    "vae_encoder/config.json", "vae_encoder/model.onnx",
]  # fmt: skip
SDXL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    **{
        name: ["transformers", "X"] for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    },
    **{name: ["diffusers", "X"] for name in ("scheduler", "unet", "vae")},
}


def test_stable_diffusion_to_export() -> None:
    found = hub_files.choose("a/b", SD15, INDEX, "export")
    assert found.kind == "diffusers"
    assert set(found.files) == SD15_WANTED
    assert found.last == "model_index.json"
    assert hub_files.complete(found.files, INDEX, "diffusers", None)


def test_one_variant_of_weights() -> None:
    files = hub_files.choose("a/b", SD15, INDEX, "export", "fp16").files
    weights = {name for name in files if name.endswith(".safetensors")}
    assert weights == {
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }
    only_half = [name for name in SD15 if not name.endswith(("model.safetensors", "ema.safetensors"))]
    assert set(hub_files.choose("a/b", only_half, INDEX, "export").files) == set(files)
    with pytest.raises(SourceError, match=r"no full weights; it holds .*non_ema"):
        less = [name for name in SD15 if name not in SD15_WANTED or not name.endswith(".safetensors")]
        hub_files.choose("a/b", [n for n in less if ".fp16." not in n or "unet" not in n], INDEX, "export")


def test_sdxl_to_export_and_to_run() -> None:
    files = set(hub_files.choose("a/b", SDXL, SDXL_INDEX, "export").files)
    assert {name.partition("/")[0] for name in files} == {
        "README.md", "model_index.json", "scheduler", "tokenizer", "tokenizer_2", "text_encoder",
        "text_encoder_2", "unet", "vae",
    }  # fmt: skip
    assert [n for n in files if n.startswith("unet/")] != []
    assert not [n for n in files if n.endswith((".onnx", "_data", ".bin", ".msgpack", ".xml", ".png"))]
    assert not [n for n in files if ".fp16." in n]
    run = hub_files.choose("a/b", SDXL, SDXL_INDEX, "run")
    assert run.kind == "onnx"
    assert {n for n in run.files if not n.startswith("tokenizer")} == {
        "README.md", "model_index.json", "scheduler/scheduler_config.json",
        *(f"{f}/{n}" for f in ("text_encoder", "text_encoder_2") for n in
          ("config.json", "model.onnx", "model.onnx_data")),
        "unet/config.json", "unet/model.onnx", "unet/model.onnx_data",
        "vae_decoder/config.json", "vae_decoder/model.onnx",
        "vae_encoder/config.json", "vae_encoder/model.onnx",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("index", "shards"),
    [
        ("{}.safetensors.index.json", "{}-0000{}-of-00002.safetensors"),
        ("{}.safetensors.index.fp16.json", "{}.fp16-0000{}-of-00002.safetensors"),
        ("{}.fp16.safetensors.index.json", "{}-0000{}-of-00002.fp16.safetensors"),
    ],
)
def test_shards(index: str, shards: str) -> None:
    stem = "unet/diffusion_pytorch_model"
    sharded = [index.format(stem), shards.format(stem, 1), shards.format(stem, 2)]
    bins = [f"{stem}-00001-of-00002.bin", f"{stem}.bin.index.json"]
    others = [name for name in SD15 if not name.startswith(f"{stem}.")]
    variant = "fp16" if "fp16" in index else None
    found = hub_files.choose("a/b", [*others, *sharded, *bins], INDEX, "export", variant)
    assert {n for n in found.files if n.startswith("unet/")} == {"unet/config.json", *sharded}
    assert hub_files.complete(found.files, INDEX, "diffusers", variant)
    assert not hub_files.complete(set(found.files) - {sharded[1]}, INDEX, "diffusers", variant)


@pytest.mark.parametrize("lost", ["unet/", "vae/diffusion", "tokenizer/", "scheduler/", "text_encoder/model"])
def test_what_lacks_a_part_is_not_whole(lost: str) -> None:
    kept = [name for name in SD15_WANTED if not name.startswith(lost)]
    assert not hub_files.complete(kept, INDEX, "diffusers", None)


def test_single_files_and_single_networks() -> None:
    found = hub_files.choose("a/b", ["README.md", "model.safetensors", "model.ckpt"], {}, "export")
    assert found == ("single file", ("README.md", "model.safetensors"), "model.safetensors")
    stem = "diffusion_pytorch_model"
    taesd = ["README.md", "config.json", f"{stem}.bin", f"{stem}.safetensors", "taesd_decoder.safetensors"]
    found = hub_files.choose("a/b", taesd, {}, "export")
    assert found == ("component", ("README.md", "config.json", f"{stem}.safetensors"), "config.json")
    control = ["config.json", f"{stem}.fp16.safetensors", f"{stem}.safetensors", "control.png"]
    assert hub_files.choose("a/b", control, {}, "export", "fp16").files == ("config.json", control[1])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "it holds nothing"),
        (["README.md"], "README.md"),
        (["a.safetensors", "b.safetensors"], r"a.safetensors, b.safetensors.*hf download a/b FILE"),
        (["config.json", "pytorch_model.bin"], "neither a bundle nor a model"),
    ],
)
def test_what_is_no_model(names: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        hub_files.choose("a/b", names, {}, "pull")


def test_pickled_weights_are_named() -> None:
    pickled = [name for name in SD15 if not (name.startswith("unet/") and name.endswith(".safetensors"))]
    with pytest.raises(SourceError, match=r"a/b: unet: only pickled weights .*can run code"):
        hub_files.choose("a/b", pickled, INDEX, "export")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (SD15, "a diffusers model"),
        (["a.safetensors"], "a checkpoint in one file"),
        (["config.json", "model.safetensors"], "one network of a model"),
        (["README.md"], "something that edgediff does not know"),
    ],
)
def test_models_are_exported_before_they_run(names: list[str], kind: str) -> None:
    with pytest.raises(InputError, match=f"no bundle but {kind}; .*edgediff export onnx -m a/b OUT"):
        hub_files.choose("a/b", names, INDEX, "run")


def test_graphs_are_not_exported() -> None:
    graphs = ["model_index.json", "unet/model.onnx", "vae_decoder/model.onnx", "text_encoder/model.onnx"]
    assert hub_files.choose("a/b", graphs, INDEX, "pull").kind == "onnx"
    with pytest.raises(SourceError, match="no safetensors"):
        hub_files.choose("a/b", graphs, INDEX, "export")


def test_names_in_an_index_are_no_paths() -> None:
    index = {**INDEX, "../secret": ["diffusers", "X"], "a/b": ["x", "y"], "note": "text", "many": [1, 2]}
    assert (
        set(hub_files.choose("a/b", [*SD15, "../secret/config.json"], index, "export").files) == SD15_WANTED
    )
