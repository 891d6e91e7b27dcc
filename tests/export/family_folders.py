"""Model folders of the wider family with random weights, made without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from export_helpers import (
    TINY_TEXT,
    TINY_UNET,
    model_folder,
    write_json,
    write_random,
    write_tokenizer,
)

from edgediff.export.emit.graph import Graph
from edgediff.export.networks import autoencoder_tiny, clip_text, controlnet, unet2d_condition

EULER: dict[str, Any] = {"_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 1000}
POOLED, IDS_WIDTH = 12, 8
TEXT_2: dict[str, Any] = {**TINY_TEXT, "projection_dim": POOLED}
XL_UNET: dict[str, Any] = {
    **TINY_UNET,
    "cross_attention_dim": 32,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": IDS_WIDTH,
    "projection_class_embeddings_input_dim": POOLED + 6 * IDS_WIDTH,
}
REFINER_UNET: dict[str, Any] = {
    **XL_UNET,
    "cross_attention_dim": 16,
    "projection_class_embeddings_input_dim": POOLED + 5 * IDS_WIDTH,
}
TINY_CONTROL: dict[str, Any] = {
    "_class_name": "ControlNetModel",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "conditioning_embedding_out_channels": [4, 8],
}
TAESD: dict[str, Any] = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
    "scaling_factor": 1.0,
}


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


def xl_folder(folder: Path, refiner: bool = False, **index: Any) -> Path:
    """An SDXL base model, or its refiner, which has the second text encoder alone."""
    model_folder(folder, unet=REFINER_UNET if refiner else XL_UNET, scheduler=EULER)
    graphs = [clip_text.record(clip_text.configure(TEXT_2, "config.json", projected=True))]
    part(folder / "text_encoder_2", TEXT_2, graphs, "model")
    write_tokenizer(folder / "tokenizer_2")
    names: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline",
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    if refiner:
        names |= {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}
        names |= {"text_encoder": [None, None], "tokenizer": [None, None]}
        names |= {"force_zeros_for_empty_prompt": False}
    change(folder / "model_index.json", **{**names, **index})
    return folder


def control_folder(folder: Path, config: Mapping[str, Any] = TINY_CONTROL) -> Path:
    """A lone ControlNet."""
    graph = controlnet.record(controlnet.configure(config, "config.json"))
    return part(folder, config, [graph], "diffusion_pytorch_model")


def tiny_autoencoder(folder: Path) -> Path:
    """A lone tiny autoencoder of the same downscale as the full one."""
    net = autoencoder_tiny.configure(TAESD, "config.json")
    graphs = [autoencoder_tiny.record_encoder(net), autoencoder_tiny.record_decoder(net)]
    return part(folder, TAESD, graphs, "diffusion_pytorch_model")


def unet_folder(folder: Path, config: Mapping[str, Any] = TINY_UNET) -> Path:
    """A lone U-Net."""
    graph = unet2d_condition.record(unet2d_condition.configure(config, "config.json"))
    return part(folder, {"_class_name": "UNet2DConditionModel", **config}, [graph], "diffusion_pytorch_model")


def part(folder: Path, config: Mapping[str, Any], graphs: list[Graph], stem: str) -> Path:
    """A component's folder."""
    write_json(folder / "config.json", config)
    parameters = tuple({p.name: p for graph in graphs for p in graph.parameters}.values())
    write_random(folder / f"{stem}.safetensors", parameters, "float32", 7)
    return folder


FAMILIES: dict[str, Callable[[Path], tuple[Path, dict[str, Any]]]] = {
    "text": lambda p: (model_folder(p / "m"), {}),
    "inpaint": lambda p: (model_folder(p / "m", unet={**TINY_UNET, "in_channels": 9}), {}),
    "instruct": lambda p: (model_folder(p / "m", unet={**TINY_UNET, "in_channels": 8}), {}),
    "xl": lambda p: (xl_folder(p / "m"), {}),
    "refiner": lambda p: (xl_folder(p / "m", refiner=True), {}),
    "controls": lambda p: (
        model_folder(p / "m"),
        {"controlnets": [str(control_folder(p / name)) for name in ("one", "two")]},
    ),
    "tiny autoencoder": lambda p: (model_folder(p / "m"), {"parts": {"vae": str(tiny_autoencoder(p / "t"))}}),
}
"""Model folders of every family that is drawn with, and how each is exported, by name."""
