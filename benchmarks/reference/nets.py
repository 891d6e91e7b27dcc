"""The three networks' configurations: the classes of Stable Diffusion, three orders of magnitude smaller."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

CONTEXT = 32
WIDTH = 128
LATENT_CHANNELS = 16
GUIDANCE_CHANNELS = 64


def autoencoder(size: int = 64) -> AutoencoderKL:
    """Pictures to 16 channels at an eighth of the size, and back."""
    return AutoencoderKL(
        sample_size=size,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def text_encoder(vocabulary: int, start: int, end: int) -> CLIPTextModel:
    """Captions to 32 vectors; causal, so the last one has seen the whole caption."""
    config: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "hidden_act": "quick_gelu",
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
        "projection_dim": WIDTH,
    }
    return CLIPTextModel(CLIPTextConfig(**config))


def denoiser(size: int = 64, widths: tuple[int, int] = (48, 80)) -> UNet2DConditionModel:
    """Predicts the velocity of noised latents, told the time, the caption and (a student) the guidance."""
    return UNet2DConditionModel(
        sample_size=size // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        time_cond_proj_dim=GUIDANCE_CHANNELS,
    )


def parameters(net: torch.nn.Module) -> int:
    """How many numbers a network holds."""
    return sum(p.numel() for p in net.parameters())


def guidance_embedding(guidance: torch.Tensor) -> torch.Tensor:
    """What a student is told, as diffusers' pipelines have it: waves of a thousand times guidance minus 1."""
    half = GUIDANCE_CHANNELS // 2
    waves = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1))).to(guidance.device)
    angles = 1000 * (guidance.float()[:, None] - 1) * waves
    return torch.cat([angles.sin(), angles.cos()], 1)
