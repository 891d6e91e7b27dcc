"""Configurations: what is covered is read, what is not is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from export_helpers import TINY_TEXT, TINY_UNET, TINY_VAE

from edgediff.errors import EdgediffError, SourceError, UnsupportedError
from edgediff.export.networks import (
    autoencoder_kl,
    autoencoder_tiny,
    clip_text,
    controlnet,
    unet2d_condition,
)

TINY_CONTROL = {key: value for key, value in TINY_UNET.items() if key != "up_block_types"} | {
    "sample_size": None
}

UNSUPPORTED: list[tuple[Any, dict[str, Any], str, Any]] = [
    (unet2d_condition, TINY_UNET, "class_embed_type", "text"),
    (unet2d_condition, TINY_UNET, "addition_embed_type", "text"),
    (unet2d_condition, TINY_UNET, "addition_embed_type", "image"),
    (unet2d_condition, TINY_UNET, "encoder_hid_dim", 4),
    (unet2d_condition, TINY_UNET, "encoder_hid_dim_type", "ip_image_proj"),
    (unet2d_condition, TINY_UNET, "act_fn", "gelu"),
    (unet2d_condition, TINY_UNET, "mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
    (unet2d_condition, TINY_UNET, "down_block_types", ["AttnDownBlock2D", "DownBlock2D"]),
    (unet2d_condition, TINY_UNET, "up_block_types", ["ResnetUpsampleBlock2D", "UpBlock2D"]),
    (unet2d_condition, TINY_UNET, "dual_cross_attention", True),
    (unet2d_condition, TINY_UNET, "resnet_time_scale_shift", "spatial"),
    (unet2d_condition, TINY_UNET, "num_attention_heads", 4),
    (unet2d_condition, TINY_UNET, "attention_type", "gated"),
    (unet2d_condition, TINY_UNET, "cross_attention_norm", "layer_norm"),
    (unet2d_condition, TINY_UNET, "time_embedding_type", "fourier"),
    (unet2d_condition, TINY_UNET, "time_embedding_act_fn", "mish"),
    (unet2d_condition, TINY_UNET, "timestep_post_act", "mish"),
    (unet2d_condition, TINY_UNET, "an_invention", 1),
    (controlnet, TINY_CONTROL, "global_pool_conditions", True),
    (controlnet, TINY_CONTROL, "controlnet_conditioning_channel_order", "gbr"),
    (controlnet, TINY_CONTROL, "class_embed_type", "simple_projection"),
    (controlnet, TINY_CONTROL, "mid_block_type", None),
    (controlnet, TINY_CONTROL, "encoder_hid_dim", 4),
    (controlnet, TINY_CONTROL, "time_cond_proj_dim", 8),
    (controlnet, TINY_CONTROL, "an_invention", 1),
    (autoencoder_tiny, {}, "act_fn", "mish"),
    (autoencoder_tiny, {}, "upsample_fn", "bilinear"),
    (autoencoder_tiny, {}, "upsampling_scaling_factor", 4),
    (autoencoder_tiny, {}, "an_invention", 1),
    (autoencoder_kl, TINY_VAE, "latents_mean", [0.0, 1.0, 2.0, 3.0]),
    (autoencoder_kl, TINY_VAE, "down_block_types", ["AttnDownEncoderBlock2D"] * 2),
    (autoencoder_kl, TINY_VAE, "an_invention", 1),
    (clip_text, TINY_TEXT, "hidden_act", "relu"),
    (clip_text, TINY_TEXT, "is_decoder", True),
    (clip_text, TINY_TEXT, "an_invention", 1),
]
WRONG: list[tuple[Any, dict[str, Any], str, Any]] = [
    (unet2d_condition, TINY_UNET, "block_out_channels", []),
    (unet2d_condition, TINY_UNET, "block_out_channels", [8, -16]),
    (unet2d_condition, TINY_UNET, "layers_per_block", [1, 2, 3]),
    (unet2d_condition, TINY_UNET, "layers_per_block", True),
    (unet2d_condition, TINY_UNET, "down_block_types", ["DownBlock2D"]),
    (unet2d_condition, TINY_UNET, "cross_attention_dim", [16, 12]),
    (unet2d_condition, TINY_UNET, "norm_num_groups", None),
    (unet2d_condition, TINY_UNET, "only_cross_attention", [True]),
    (unet2d_condition, TINY_UNET, "only_cross_attention", [1, 0]),
    (unet2d_condition, TINY_UNET, "transformer_layers_per_block", [1, 2, 3]),
    (unet2d_condition, TINY_UNET, "transformer_layers_per_block", [1, -2]),
    (unet2d_condition, TINY_UNET, "transformer_layers_per_block", [1, []]),
    (unet2d_condition, TINY_UNET, "transformer_layers_per_block", "deep"),
    (unet2d_condition, TINY_UNET, "time_cond_proj_dim", 0),
    (unet2d_condition, TINY_UNET, "num_class_embeds", 1.5),
    (controlnet, TINY_CONTROL, "layers_per_block", [1, 2]),
    (controlnet, TINY_CONTROL, "conditioning_embedding_out_channels", []),
    (controlnet, TINY_CONTROL, "num_attention_heads", [1, 2, 3]),
    (autoencoder_tiny, {}, "encoder_block_out_channels", [64, 64, 64]),
    (autoencoder_tiny, {}, "decoder_block_out_channels", [64, 64, 32, 32]),
    (autoencoder_tiny, {}, "num_decoder_blocks", [3, 1]),
    (autoencoder_tiny, {}, "scaling_factor", -1),
    (unet2d_condition, TINY_UNET, "norm_eps", "small"),
    (autoencoder_kl, TINY_VAE, "scaling_factor", 0),
    (autoencoder_kl, TINY_VAE, "latent_channels", 1.5),
    (clip_text, TINY_TEXT, "eos_token_id", [1, 2]),
    (clip_text, TINY_TEXT, "vocab_size", 10**9),
]


@pytest.mark.parametrize(("network", "base", "key", "value"), UNSUPPORTED)
def test_switches_that_are_not_covered(network: Any, base: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=key):
        network.configure({**base, key: value}, "config.json")


@pytest.mark.parametrize(("network", "base", "key", "value"), WRONG)
def test_values_out_of_range(network: Any, base: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(SourceError, match=key):
        network.configure({**base, key: value}, "config.json")


def test_harmless_keys_are_accepted() -> None:
    unet2d_condition.configure(
        {**TINY_UNET, "dropout": 0.1, "only_cross_attention": [False, False], "class_embed_type": None}, "c"
    )
    controlnet.configure({**TINY_CONTROL, "num_attention_heads": None, "upcast_attention": True}, "c")
    autoencoder_tiny.configure({"block_out_channels": [64] * 4, "force_upcast": False}, "c")
    clip_text.configure({**TINY_TEXT, "torch_dtype": "float16", "pruned_heads": {}, "top_k": 50}, "c")
    autoencoder_kl.configure({**TINY_VAE, "force_upcast": True, "shift_factor": None}, "c")


def test_groups_and_heads_must_divide() -> None:
    for change in ({"norm_num_groups": 3}, {"attention_head_dim": 3}):
        with pytest.raises(EdgediffError, match=r"down_blocks.*do not divide"):
            unet2d_condition.record(unet2d_condition.configure({**TINY_UNET, **change}, "config.json"))


NEEDED: list[tuple[dict[str, Any], str]] = [
    (
        {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 9},
        "addition_time_embed_dim",
    ),
    (
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 2},
        "projection_class_embeddings_input_dim",
    ),
    ({"class_embed_type": "projection"}, "projection_class_embeddings_input_dim"),
    ({"class_embeddings_concat": True}, "no class embeddings"),
    (
        {
            "class_embed_type": "timestep",
            "class_embeddings_concat": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 2,
            "projection_class_embeddings_input_dim": 9,
        },
        "too wide",
    ),
    ({"transformer_layers_per_block": [1, [2]]}, "reverse_transformer_layers_per_block"),
    (
        {
            "transformer_layers_per_block": [1, [2, 3]],
            "reverse_transformer_layers_per_block": [[2, 3], 1],
        },
        r"\[2, 3\] for 1 layers",
    ),
]


@pytest.mark.parametrize(("change", "named"), NEEDED)
def test_keys_that_need_each_other(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SourceError, match=named):
        unet2d_condition.configure({**TINY_UNET, **change}, "config.json")
