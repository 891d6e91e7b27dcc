"""Full-size models with random weights, made on the spot: what published checkpoints are, but for training.

``python -m benchmarks.full_size sd15 FOLDER [--dtype float16]`` writes a folder as diffusers lays it out;
``--tiny FOLDER`` an AutoencoderTiny of TAESD's shape besides, for ``edgediff export --tiny-decoder``.
Weights repeat one block of noise, scaled per layer, so that gigabytes take seconds; no PyTorch.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgediff.export.emit.graph import Parameter
from edgediff.export.networks import autoencoder_kl, autoencoder_tiny, clip_text, unet2d_condition

_BLOCK = 1 << 22

# The configurations of the published models; keys that are left out have diffusers' defaults.
_CLIP_L: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
    "eos_token_id": 2,
}  # fmt: skip
_OPENCLIP_H: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
    "hidden_act": "gelu", "eos_token_id": 2,
}  # fmt: skip
_BIG_G: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
    "hidden_act": "gelu", "projection_dim": 1280, "eos_token_id": 2,
}  # fmt: skip
_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 512,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_SD_XL_UNET: dict[str, Any] = {
    "sample_size": 128, "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048, "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "sd15": {
        "pipeline": "StableDiffusionPipeline",
        "text_encoder": _CLIP_L,
        "unet": {"sample_size": 64, "cross_attention_dim": 768},
        "vae": _VAE,
        "scheduler": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1, **_BETAS},
    },
    "sd21": {
        "pipeline": "StableDiffusionPipeline",
        "text_encoder": _OPENCLIP_H,
        "unet": {
            "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True, "upcast_attention": True,
        },
        "vae": _VAE,
        "scheduler": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction",
                      "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **_BETAS},
    },
    "sdxl": {
        "pipeline": "StableDiffusionXLPipeline",
        "text_encoder": _CLIP_L,
        "text_encoder_2": _BIG_G,
        "unet": _SD_XL_UNET,
        "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "scheduler": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading",
                      "steps_offset": 1, **_BETAS},
    },
}  # fmt: skip
_NETWORKS: dict[str, tuple[Any, str, str]] = {
    "text_encoder": (clip_text, "CLIPTextModel", "model"),
    "text_encoder_2": (clip_text, "CLIPTextModelWithProjection", "model"),
    "unet": (unet2d_condition, "UNet2DConditionModel", "diffusion_pytorch_model"),
    "vae": (autoencoder_kl, "AutoencoderKL", "diffusion_pytorch_model"),
}


def make(kind: str, folder: Path, dtype: str = "float16") -> Path:
    """Write one of ``MODELS`` to ``folder``; ``dtype`` is float16 or float32."""
    model = MODELS[kind]
    index: dict[str, Any] = {"_class_name": model["pipeline"], "scheduler": ["diffusers", "x"]}
    rng = np.random.default_rng(0)
    block = rng.standard_normal(_BLOCK, np.float32)
    for name, (network, class_name, stem) in _NETWORKS.items():
        if name not in model:
            continue
        projected = class_name.endswith("Projection")
        config = model[name]
        library = "transformers" if network is clip_text else "diffusers"
        index[name] = [library, class_name]
        _json(folder / name / "config.json", {"_class_name": class_name, **config})
        parameters = _parameters(network, config, projected)
        _weights(folder / name / f"{stem}.safetensors", parameters, dtype, block)
        if network is clip_text:
            tokenizer = name.replace("text_encoder", "tokenizer")
            index[tokenizer] = ["transformers", "CLIPTokenizer"]
            _tokenizer(folder / tokenizer)
    index["scheduler"] = ["diffusers", model["scheduler"]["_class_name"]]
    _json(folder / "scheduler" / "scheduler_config.json", model["scheduler"])
    _json(folder / "model_index.json", index)
    return folder


def make_tiny(folder: Path, dtype: str = "float16") -> Path:
    """Write an AutoencoderTiny of TAESD's shape (64 channels wide, 4 in the latents) to ``folder``."""
    config = {"_class_name": "AutoencoderTiny", "latent_channels": 4}
    net = autoencoder_tiny.configure(config, "config.json")
    graphs = [autoencoder_tiny.record_encoder(net), autoencoder_tiny.record_decoder(net)]
    parameters = list({p.name: p for graph in graphs for p in graph.parameters}.values())
    block = np.random.default_rng(1).standard_normal(_BLOCK, np.float32)
    _json(folder / "config.json", config)
    _weights(folder / "diffusion_pytorch_model.safetensors", parameters, dtype, block)
    return folder


def _parameters(network: Any, config: Mapping[str, Any], projected: bool) -> list[Parameter]:
    if network is clip_text:
        graphs = [clip_text.record(clip_text.configure(config, "config.json", projected))]
    elif network is autoencoder_kl:
        shape = autoencoder_kl.configure(config, "config.json")
        graphs = [autoencoder_kl.record_encoder(shape), autoencoder_kl.record_decoder(shape)]
    else:
        graphs = [unet2d_condition.record(unet2d_condition.configure(config, "config.json"))]
    return list({p.name: p for graph in graphs for p in graph.parameters}.values())


def _weights(path: Path, parameters: list[Parameter], dtype: str, block: np.ndarray[Any, Any]) -> None:
    width = np.dtype(dtype).itemsize
    header: dict[str, Any] = {}
    at = 0
    for p in parameters:
        kind = {"float32": "F32", "float16": "F16"}[dtype]
        end = at + p.size * width
        header[p.name] = {"dtype": kind, "shape": list(p.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    start = 0
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for p in parameters:
            scale, shift = _spread(p)
            left = p.size
            while left:
                taken = min(left, _BLOCK - start)
                file.write((block[start : start + taken] * scale + shift).astype(dtype).data)
                left, start = left - taken, (start + taken) % _BLOCK


def _spread(p: Parameter) -> tuple[np.float32, np.float32]:
    """Scale and mean that keep activations near one."""
    if p.role == "bias":
        return np.float32(0.02), np.float32(0)
    if len(p.shape) == 1:
        return np.float32(0.02), np.float32(1)
    return np.float32((p.size / p.shape[0]) ** -0.5), np.float32(0)


def _tokenizer(folder: Path) -> None:
    """A vocabulary in CLIP's form, of single letters: the size of a tokenizer matters to no figure."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    ends = [letter + "</w>" for letter in letters]
    words = [*letters, *ends, "<|startoftext|>", "<|endoftext|>"]
    _json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": words[-2], "eos_token": words[-1], "pad_token": words[-1], "unk_token": words[-1]}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    _json(folder / "tokenizer_config.json", config)
    _json(folder / "special_tokens_map.json", special)


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))


def main() -> None:
    """Make one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(MODELS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    parser.add_argument("--tiny", type=Path, metavar="FOLDER", help="also write a tiny autoencoder here")
    options = parser.parse_args()
    print(make(options.kind, options.folder, options.dtype))
    if options.tiny is not None:
        print(make_tiny(options.tiny, options.dtype))


if __name__ == "__main__":
    main()
