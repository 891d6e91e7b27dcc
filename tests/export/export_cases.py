"""Configurations of every network in all its switches, each with a batch and a size, for comparisons.

Small enough for seconds. Whatever draws or runs them decides about weights and about what is right.
"""

from __future__ import annotations

from typing import Any

from export_unets import BASE, THREE, XL

UNETS: dict[str, tuple[dict[str, Any], int, tuple[int, int]]] = {
    "two levels": (BASE, 1, (8, 8)),
    "odd sizes": (BASE, 2, (9, 13)),
    "guided": ({**BASE, "time_cond_proj_dim": 10}, 2, (8, 8)),
    "three levels, odd": (THREE, 1, (9, 13)),
    "three levels, no square": (THREE, 2, (24, 40)),
    "linear projection, heads and depths by level": (
        {
            **THREE,
            "use_linear_projection": True,
            "attention_head_dim": (1, 4, 8),
            "transformer_layers_per_block": (1, 2, 3),
            "layers_per_block": (2, 1, 3),
        },
        1,
        (11, 6),
    ),
    "asymmetric": ({**THREE, "downsample_padding": 0}, 1, (11, 13)),
    "other switches": (
        {
            **BASE,
            "center_input_sample": True,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "mid_block_scale_factor": 1.7,
            "in_channels": 9,
            "out_channels": 5,
            "conv_in_kernel": 1,
            "conv_out_kernel": 5,
            "norm_eps": 1e-3,
            "norm_num_groups": 8,
            "upcast_attention": True,
            "act_fn": "swish",
            "time_embedding_dim": 20,
        },
        2,
        (5, 7),
    ),
    "no middle": ({**BASE, "mid_block_type": None}, 1, (8, 8)),
    "sizes and a second text": (XL, 2, (9, 11)),
    "one head, sinusoids the other way": (
        {**XL, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": (1, 2, 3)},
        1,
        (9, 11),
    ),
    "depths by layer, middle without attention": (
        {
            **XL,
            "layers_per_block": 2,
            "transformer_layers_per_block": (1, (2, 1), (3, 1)),
            "reverse_transformer_layers_per_block": ((1, 2, 3), (2, 1, 1), 1),
            "mid_block_type": "UNetMidBlock2D",
            "mid_block_scale_factor": 1.3,
        },
        1,
        (9, 11),
    ),
    "depths by layer, middle as deep as the first": (
        {
            **XL,
            "layers_per_block": 2,
            "transformer_layers_per_block": (1, 1, (3, 1)),
            "reverse_transformer_layers_per_block": ((1, 2, 3), 2, 1),
        },
        1,
        (6, 7),
    ),
    "no attention in the coarsest level, no middle": (
        {**THREE, "mid_block_type": None, "layers_per_block": (1, 2, 1)},
        2,
        (9, 11),
    ),
    "no attention at all": (
        {
            **THREE,
            "down_block_types": ("DownBlock2D",) * 3,
            "mid_block_type": "UNetMidBlock2D",
            "up_block_types": ("UpBlock2D",) * 3,
        },
        1,
        (9, 11),
    ),
    "attention on one way only": (
        {**THREE, "down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("CrossAttnUpBlock2D",) * 3},
        1,
        (9, 11),
    ),
    "labels from a table, text only": (
        {
            **THREE,
            "in_channels": 7,
            "num_class_embeds": 20,
            "only_cross_attention": (True, False, True),
            "use_linear_projection": True,
        },
        3,
        (9, 11),
    ),
    "text only everywhere": ({**BASE, "only_cross_attention": True}, 1, (9, 11)),
    "labels like the time": ({**BASE, "class_embed_type": "timestep"}, 2, (9, 11)),
    "labels as they are": ({**BASE, "class_embed_type": "identity"}, 2, (9, 11)),
    "labels projected": (
        {**BASE, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 14},
        2,
        (9, 11),
    ),
    "labels projected by one layer, behind the time": (
        {
            **BASE,
            "class_embed_type": "simple_projection",
            "projection_class_embeddings_input_dim": 14,
            "class_embeddings_concat": True,
        },
        3,
        (9, 11),
    ),
    "labels and sizes and guidance": ({**XL, "num_class_embeds": 20, "time_cond_proj_dim": 10}, 2, (9, 11)),
    "time scales and shifts": (
        {
            **BASE,
            "resnet_time_scale_shift": "scale_shift",
            "time_embedding_act_fn": "gelu",
            "timestep_post_act": "relu",
        },
        2,
        (9, 11),
    ),
    "switches of other blocks": (
        {
            **BASE,
            "resnet_out_scale_factor": 1.4,
            "resnet_skip_time_act": True,
            "mid_block_only_cross_attention": True,
            "sample_size": (7, 9),
            "time_embedding_act_fn": "silu",
            "timestep_post_act": "silu",
            "cross_attention_dim": (12, 12),
        },
        1,
        (9, 11),
    ),
    "eight channels in": ({**THREE, "in_channels": 8, "act_fn": "swish"}, 1, (9, 11)),
}


def blocks(*widths: int) -> dict[str, Any]:
    return {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "norm_num_groups": 4,
    }


AUTOENCODERS: dict[str, tuple[dict[str, Any], int, tuple[int, int]]] = {
    "one level": (blocks(8), 2, (5, 9)),
    "three levels": (blocks(8, 12, 16), 1, (9, 13)),
    "sixteen channels": ({**blocks(8, 16), "latent_channels": 16, "layers_per_block": 2}, 2, (4, 6)),
    "no attention": ({**blocks(8, 16), "mid_block_add_attention": False}, 1, (8, 8)),
    "no quant convolutions": (
        {**blocks(8, 16), "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1},
        1,
        (3, 8),
    ),
    "other channels and groups": (
        {**blocks(8, 8, 24), "in_channels": 1, "out_channels": 2, "norm_num_groups": 8, "act_fn": "swish"},
        1,
        (6, 4),
    ),
}

SMALL: dict[str, Any] = {
    "encoder_block_out_channels": (8,) * 3,
    "decoder_block_out_channels": (8,) * 3,
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (2, 1, 1),
}

TINY_AUTOENCODERS: dict[str, tuple[dict[str, Any], int, tuple[int, int]]] = {
    "as published": ({}, 1, (3, 5)),
    "three stages": (SMALL, 2, (9, 11)),
    "sixteen channels, shifted": (
        {**SMALL, "latent_channels": 16, "scaling_factor": 1.5, "shift_factor": 0.1},
        1,
        (5, 4),
    ),
    "gelu, other channels": (
        {**SMALL, "act_fn": "gelu", "in_channels": 1, "out_channels": 2, "latent_magnitude": 2},
        1,
        (4, 6),
    ),
    "silu": ({**SMALL, "act_fn": "silu", "decoder_block_out_channels": (12,) * 3}, 2, (4, 4)),
}

TEXT: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 11,
    "bos_token_id": 48,
    "eos_token_id": 49,
}

TEXTS: dict[str, tuple[dict[str, Any], int, int]] = {
    "whole length": (TEXT, 1, 11),
    "batch, shorter": (TEXT, 2, 7),
    "gelu, heads, eps": (
        {**TEXT, "hidden_act": "gelu", "num_attention_heads": 4, "layer_norm_eps": 1e-3},
        2,
        11,
    ),
    "largest id pools": ({**TEXT, "eos_token_id": 2}, 3, 9),
    "four layers": ({**TEXT, "num_hidden_layers": 4}, 2, 11),
    "one layer, one head": ({**TEXT, "num_hidden_layers": 1, "num_attention_heads": 1}, 1, 4),
}


def control(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A ControlNet beside a U-Net of that configuration."""
    kept = {key: value for key, value in base.items() if key != "up_block_types"}
    return {**kept, "conditioning_embedding_out_channels": (4, 6, 8), **changes}


CONTROLS: dict[str, tuple[dict[str, Any], int, tuple[int, int]]] = {
    "two levels": (control(BASE), 1, (8, 8)),
    "odd sizes": (control(THREE), 2, (9, 11)),
    "sizes and a second text": (control(XL, layers_per_block=2), 2, (9, 11)),
    "blue first, eight times smaller": (
        control(
            BASE,
            controlnet_conditioning_channel_order="bgr",
            conditioning_embedding_out_channels=(2, 4, 6, 8),
        ),
        1,
        (5, 7),
    ),
    "other switches": (
        control(
            THREE,
            conditioning_channels=2,
            in_channels=5,
            mid_block_type="UNetMidBlock2D",
            mid_block_scale_factor=1.3,
            downsample_padding=0,
            num_attention_heads=(1, 2, 4),
            attention_head_dim=3,
            num_class_embeds=20,
            only_cross_attention=(True, False, False),
            resnet_time_scale_shift="scale_shift",
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-3,
        ),
        2,
        (9, 11),
    ),
    "no attention at all": (
        control(THREE, down_block_types=("DownBlock2D",) * 3, mid_block_type="UNetMidBlock2D"),
        1,
        (9, 11),
    ),
    "labels projected": (
        control(BASE, class_embed_type="projection", projection_class_embeddings_input_dim=14),
        2,
        (6, 9),
    ),
}
