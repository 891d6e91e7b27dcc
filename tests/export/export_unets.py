"""Small U-Nets for comparisons with diffusers, and inputs for them."""

from __future__ import annotations

from typing import Any

import numpy as np

BASE: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
THREE: dict[str, Any] = {
    **BASE,
    "block_out_channels": (8, 16, 24),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
XL: dict[str, Any] = {
    **BASE,
    "block_out_channels": (8, 16, 24),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 29,
}


def random_inputs(config: Any, batch: int, size: tuple[int, int], ids: int = 6) -> dict[str, Any]:
    """One array per input that a diffusers U-Net or ControlNet of this configuration reads."""
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> Any:
        return rng.standard_normal((batch, *shape), np.float32)

    inputs = {
        "sample": normal(config.in_channels, *size),
        "timestep": np.array([617.25], np.float32),
        "encoder_hidden_states": normal(5, 12),
    }
    if config.get("time_cond_proj_dim") is not None:
        inputs["timestep_cond"] = normal(config.time_cond_proj_dim)
    if config.addition_embed_type == "text_time":
        inputs["text_embeds"] = normal(
            config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim
        )
        inputs["time_ids"] = rng.integers(0, 1024, (batch, ids)).astype(np.float32)
    match config.class_embed_type:
        case None if config.num_class_embeds is not None:
            inputs["class_labels"] = rng.integers(0, config.num_class_embeds, batch)
        case "timestep":
            inputs["class_labels"] = rng.uniform(0, 999, (batch, 1)).astype(np.float32)
        case "identity":
            inputs["class_labels"] = normal(4 * config.block_out_channels[0])
        case "projection" | "simple_projection":
            inputs["class_labels"] = normal(config.projection_class_embeddings_input_dim)
    return inputs


def arguments(config: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs as diffusers takes them: a time-like label has no channel, sizes go into a dictionary."""
    import torch

    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    if config.class_embed_type == "timestep":
        given["class_labels"] = given["class_labels"][:, 0]
    if "time_ids" in given:
        given["added_cond_kwargs"] = {name: given.pop(name) for name in ("text_embeds", "time_ids")}
    return given
