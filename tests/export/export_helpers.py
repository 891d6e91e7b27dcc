"""Makes model folders with random weights, without PyTorch, and runs graphs."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from edgediff.export.checkpoint import Spellings, match
from edgediff.export.emit.graph import Graph, Parameter
from edgediff.export.emit.onnx import PORTABLE, Profile, emit
from edgediff.export.emit.onnx_builder import Storage
from edgediff.export.emit.weights import write_weights
from edgediff.export.networks import autoencoder_kl, clip_text, unet2d_condition
from edgediff.export.tensors import Tensors

Array = np.ndarray[Any, Any]

TINY_TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "eos_token_id": 39,
}
TINY_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
TINY_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
}
FULL_TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "eos_token_id": 2,
}
FULL_UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
FULL_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
DDIM: dict[str, Any] = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}


def parameters_of(config: Mapping[str, Any], network: Any) -> tuple[Parameter, ...]:
    """All parameters that a configuration declares."""
    shape = network.configure(config, "config.json")
    if network is autoencoder_kl:
        graphs = [network.record_encoder(shape), network.record_decoder(shape)]
    else:
        graphs = [network.record(shape)]
    return tuple({p.name: p for graph in graphs for p in graph.parameters}.values())


def random_tensor(parameter: Parameter, rng: np.random.Generator) -> Array:
    """Numbers that keep activations near one; norms and biases are not trivial."""
    drawn = rng.standard_normal(parameter.shape, np.float32)
    if parameter.role == "bias":
        return 0.1 * drawn
    if len(parameter.shape) == 1:
        return 1.0 + 0.1 * drawn
    return drawn / np.float32(np.sqrt(parameter.size / parameter.shape[0]))


def write_safetensors(path: Path, tensors: Mapping[str, Array | tuple[str, Array]]) -> None:
    """Write a safetensors file; a pair gives the type's name for numbers that NumPy lacks."""
    header: dict[str, Any] = {}
    at = 0
    names = {"float32": "F32", "float16": "F16", "int64": "I64", "float64": "F64"}
    plain: list[Array] = []
    for name, value in tensors.items():
        dtype, array = value if isinstance(value, tuple) else (names[value.dtype.name], value)
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
        plain.append(array)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in plain:
            file.write(array.tobytes())


def write_random(path: Path, parameters: tuple[Parameter, ...], dtype: str, seed: int) -> None:
    """Random weights of any size, one tensor in memory at a time."""
    width = np.dtype(dtype).itemsize
    header: dict[str, Any] = {}
    at = 0
    for p in parameters:
        header[p.name] = {
            "dtype": {"float32": "F32", "float16": "F16"}[dtype],
            "shape": list(p.shape),
            "data_offsets": [at, at + p.size * width],
        }
        at += p.size * width
    text = json.dumps(header).encode()
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for p in parameters:
            file.write(random_tensor(p, rng).astype(dtype).data)


def model_folder(
    folder: Path,
    text: Mapping[str, Any] = TINY_TEXT,
    unet: Mapping[str, Any] = TINY_UNET,
    vae: Mapping[str, Any] = TINY_VAE,
    scheduler: Mapping[str, Any] = DDIM,
    dtype: str = "float32",
) -> Path:
    """A whole model as diffusers lays it out."""
    folder.mkdir(parents=True)
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", index)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    parts = {
        "text_encoder": (text, clip_text, "model.safetensors"),
        "unet": (unet, unet2d_condition, "diffusion_pytorch_model.safetensors"),
        "vae": (vae, autoencoder_kl, "diffusion_pytorch_model.safetensors"),
    }
    for seed, (name, (config, network, file)) in enumerate(parts.items()):
        write_json(folder / name / "config.json", config)
        write_random(folder / name / file, parameters_of(config, network), dtype, seed)
    write_tokenizer(folder / "tokenizer")
    return folder


def write_tokenizer(folder: Path) -> None:
    """A tiny tokenizer in CLIP's classic form."""
    letters = "abcdefghijklmno"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ab", "ab</w>"]
    words += ["<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\na b\na b</w>\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"model_max_length": 12, "eos_token": "<|endoftext|>"})


def write_json(path: Path, value: Any) -> None:
    """Write JSON, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def build(
    graph: Graph,
    tensors: Tensors,
    spellings: Spellings,
    folder: Path,
    storage: Storage = "fp32",
    profile: Profile = PORTABLE,
) -> Path:
    """Emit a graph with its weights; the model's path."""
    names = match(graph.parameters, tensors, spellings, folder)
    emitted = emit(graph, storage, profile)
    with (folder / f"{graph.name}.onnx_data").open("wb") as file:
        write_weights(emitted.model, emitted.stored, tensors, names, file, f"{graph.name}.onnx_data")
    path = folder / f"{graph.name}.onnx"
    path.write_bytes(emitted.model.SerializeToString())
    return path


def run(path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs of a graph by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def difference(found: Array, wanted: Array) -> float:
    """The largest difference over the largest magnitude."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
