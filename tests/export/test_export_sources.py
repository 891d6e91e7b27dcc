"""Model folders that cannot be exported: each is refused by name, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import TINY_UNET, model_folder, parameters_of, write_json, write_safetensors

from edgediff.errors import EdgediffError, InputError, SourceError, UnsupportedError
from edgediff.export.main import export_onnx
from edgediff.export.networks import unet2d_condition
from edgediff.export.tensors import TensorFiles

UNET = "unet/diffusion_pytorch_model.safetensors"
Change = Callable[[Path], Any]


def edit(path: str, **changes: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / path
        write_json(file, {**json.loads(file.read_text(encoding="utf-8")), **changes})

    return change


def remove(path: str) -> Change:
    return lambda folder: (folder / path).unlink()


def text(path: str, content: str) -> Change:
    return lambda folder: (folder / path).write_text(content, encoding="utf-8")


def tensor(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Rewrite the U-Net's tensors."""

    def apply(folder: Path) -> None:
        tensors = TensorFiles([folder / UNET])
        arrays: dict[str, Any] = {name: tensors.whole(name) for name in tensors.entries}
        change(arrays)
        write_safetensors(folder / UNET, arrays)

    return apply


def rename(source: str, target: str) -> Change:
    return lambda folder: (folder / source).rename(folder / target)


def drop_tree(path: str) -> Change:
    import shutil

    return lambda folder: shutil.rmtree(folder / path)


def with_value(value: float) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays["conv_in.weight"][0, 0, 0, 0] = value

    return change


CASES: dict[str, tuple[Change, type[EdgediffError], str]] = {
    "no index": (remove("model_index.json"), SourceError, "no model_index.json"),
    "index is an array": (text("model_index.json", "[]"), SourceError, "expected a JSON object"),
    "index is cut": (text("model_index.json", '{"_class_name": '), SourceError, "not valid JSON"),
    "index has a key twice": (text("model_index.json", '{"a": 1, "a": 2}'), SourceError, "twice"),
    "index nests": (text("model_index.json", "[" * 200_000), SourceError, "nested too deeply"),
    "index is a pointer": (
        text("model_index.json", "version https://git-lfs.github.com/spec/v1"),
        SourceError,
        "git lfs pull",
    ),
    "configuration has NaN": (text("unet/config.json", '{"norm_eps": NaN}'), SourceError, "NaN"),
    "infinite number": (text("unet/config.json", '{"norm_eps": 1e999}'), SourceError, "not valid JSON"),
    "lone surrogate": (text("unet/config.json", '{"a": "\\ud800"}'), SourceError, "not valid JSON"),
    "scheduler has NaN": (text("scheduler/scheduler_config.json", '{"a": NaN}'), SourceError, "NaN"),
    "another pipeline": (
        edit("model_index.json", _class_name="FluxPipeline"),
        UnsupportedError,
        "FluxPipeline",
    ),
    "another class": (
        edit("model_index.json", vae=["diffusers", "VQModel"]),
        UnsupportedError,
        "VQModel",
    ),
    "component not named": (edit("model_index.json", unet=[None, None]), SourceError, "names no unet"),
    "component missing": (drop_tree("vae"), SourceError, "vae is missing"),
    "scheduler missing": (drop_tree("scheduler"), SourceError, "scheduler is missing"),
    "tokenizer missing": (drop_tree("tokenizer"), SourceError, "tokenizer is missing"),
    "tokenizer empty": (remove("tokenizer/merges.txt"), SourceError, "neither tokenizer.json"),
    "configuration missing": (remove("unet/config.json"), SourceError, "config.json: cannot be read"),
    "weights missing": (remove(UNET), SourceError, "holds no weights"),
    "pickled": (rename(UNET, "unet/diffusion_pytorch_model.bin"), SourceError, "pickled"),
    "renamed pickle": (text(UNET, "\x80\x04junkjunkjunk"), SourceError, "not a safetensors file"),
    "another text width": (
        edit("unet/config.json", cross_attention_dim=20),
        SourceError,
        "unet reads text of 20 channels",
    ),
    "another latent": (edit("vae/config.json", latent_channels=8), SourceError, "does not fit 7 tensors"),
    "unknown input channels": (edit("unet/config.json", in_channels=7), UnsupportedError, "7 channels"),
    "tensor missing": (
        tensor(lambda arrays: arrays.pop("conv_in.bias")),
        SourceError,
        "misses 1 tensors: conv_in.bias",
    ),
    "tensor superfluous": (
        tensor(lambda arrays: arrays.update(surplus=np.zeros(3, np.float32))),
        SourceError,
        "does not know 1 tensors: surplus",
    ),
    "tensor misshapen": (
        tensor(lambda arrays: arrays.update({"conv_in.bias": np.zeros(9, np.float32)})),
        SourceError,
        r"conv_in.bias is \(9,\), expected \(8,\)",
    ),
    "tensor of integers": (
        tensor(lambda arrays: arrays.update({"conv_in.bias": np.zeros(8, np.int64)})),
        SourceError,
        "conv_in.bias is I64",
    ),
    "NaN": (tensor(with_value(np.nan)), SourceError, "conv_in.weight holds NaN or Inf"),
    "Inf": (tensor(with_value(-np.inf)), SourceError, "conv_in.weight holds NaN or Inf"),
    "too large for fp16": (tensor(with_value(1e5)), SourceError, "conv_in.weight reaches 1e.05"),
    "bad defaults": (
        lambda folder: write_json(folder / "edgediff_defaults.json", {"defaults": {"steps": 4}}),
        SourceError,
        "num_inference_steps",
    ),
    "defaults out of range": (
        lambda folder: write_json(folder / "edgediff_defaults.json", {"defaults": {"guidance_scale": -1}}),
        SourceError,
        "guidance_scale is -1",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, tmp_path: Path) -> None:
    change, error, message = CASES[name]
    folder = model_folder(tmp_path / "model")
    change(folder)
    with pytest.raises(error, match=message):
        export_onnx(str(folder), str(tmp_path / "out"), dtype="fp16", verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_large_values_fit_float32(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    tensor(with_value(1e5))(folder)
    export_onnx(str(folder), str(tmp_path / "out"), dtype="fp32", verify=False)


def test_not_a_folder(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        export_onnx(str(tmp_path / "absent"), out)
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x04")
    with pytest.raises(SourceError, match="pickled"):
        export_onnx(str(tmp_path / "x.ckpt"), out)
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(SourceError, match="not a safetensors file"):
        export_onnx(str(tmp_path / "x.safetensors"), out)
    with pytest.raises(InputError, match="dtype 'int3'"):
        export_onnx(str(tmp_path), out, dtype="int3")


def test_shards_and_variant(tmp_path: Path) -> None:
    """The same tensors from two shards, or from the fp16 variant, make the same bundle."""
    folder = model_folder(tmp_path / "model", dtype="float16")
    export_onnx(str(folder), str(tmp_path / "one"), verify=False)
    tensors = TensorFiles([folder / UNET])
    arrays = {name: tensors.whole(name) for name in tensors.entries}
    half = len(arrays) // 2
    shards = {"a.safetensors": list(arrays)[:half], "b.safetensors": list(arrays)[half:]}
    for file, names in shards.items():
        write_safetensors(folder / "unet" / file, {name: arrays[name] for name in names})
    (folder / UNET).rename(folder / UNET.replace(".safetensors", ".fp16.safetensors"))
    export_onnx(str(folder), str(tmp_path / "two"), verify=False)
    (folder / UNET.replace(".safetensors", ".fp16.safetensors")).unlink()
    index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
    write_json(folder / "unet/diffusion_pytorch_model.safetensors.index.json", index)
    export_onnx(str(folder), str(tmp_path / "three"), verify=False)
    files = [(tmp_path / out / "unet/model.onnx_data").read_bytes() for out in ("one", "two", "three")]
    assert files[0] == files[1] == files[2]
    (folder / "unet/b.safetensors").unlink()
    with pytest.raises(SourceError, match="shard is missing"):
        export_onnx(str(folder), str(tmp_path / "four"), verify=False)
    write_json(folder / "unet/diffusion_pytorch_model.safetensors.index.json", {"weight_map": {"a": "../x"}})
    with pytest.raises(SourceError, match=r"plain .* file name"):
        export_onnx(str(folder), str(tmp_path / "four"), verify=False)


def test_parameters_cover_the_configuration() -> None:
    assert len(parameters_of(TINY_UNET, unet2d_condition)) > 100
