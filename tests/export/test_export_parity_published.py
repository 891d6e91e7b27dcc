"""Published models at full size: the recorded parameters are those of the diffusers or transformers module.

Configurations hold what differs from the library's defaults. The module is made on torch's meta device, so no
numbers are held. Counts, where one is given, are the published ones: they say that the configuration is the
model's.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from edgediff.export.emit.flops import flops  # noqa: E402
from edgediff.export.emit.graph import Graph  # noqa: E402
from edgediff.export.networks import (  # noqa: E402
    autoencoder_kl,
    autoencoder_tiny,
    clip_text,
    controlnet,
    unet2d_condition,
)

pytestmark = pytest.mark.parity

SD15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
SD21: dict[str, Any] = {
    "sample_size": 96,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "upcast_attention": True,
    "use_linear_projection": True,
}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
SHALLOW: dict[str, Any] = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 1,
    "mid_block_type": None,
    "cross_attention_dim": 768,
}
# The name, then: configuration, numbers about the picture, millions of parameters as published.
UNETS: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "SD 1.5": (SD15, 0, "859.52"),
    "SD 1.5 inpainting": ({**SD15, "in_channels": 9}, 0, None),
    "InstructPix2Pix": ({**SD15, "in_channels": 8}, 0, None),
    "LCM, distilled from SD 1.5": ({**SD15, "time_cond_proj_dim": 256}, 0, None),
    "SD 2.1": (SD21, 0, "865.91"),
    "x4 upscaler": (
        {
            "sample_size": 128,
            "in_channels": 7,
            "block_out_channels": [256, 512, 512, 1024],
            "cross_attention_dim": 1024,
            "attention_head_dim": 8,
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
            "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
            "num_class_embeds": 1000,
            "only_cross_attention": [True, True, True, False],
            "use_linear_projection": True,
        },
        0,
        "473",
    ),
    "SDXL": (SDXL, 6, "2567.46"),
    "SDXL refiner": (
        {
            **SDXL,
            "attention_head_dim": [6, 12, 24, 24],
            "block_out_channels": [384, 768, 1536, 1536],
            "cross_attention_dim": 1280,
            "down_block_types": [
                "DownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ],
            "projection_class_embeddings_input_dim": 2560,
            "transformer_layers_per_block": 4,
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        },
        5,
        None,
    ),
    "SSD-1B": (
        {
            **SDXL,
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": [1, [2, 2], [4, 4]],
            "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        },
        6,
        "1.3e3",
    ),
    "Segmind-Vega": (
        {
            **SDXL,
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": [1, [1, 1], [2, 2]],
            "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1],
        },
        6,
        "745",
    ),
    "BK-SDM-Base": ({**SD15, "layers_per_block": 1}, 0, None),
    "BK-SDM-Small": ({**SD15, "layers_per_block": 1, "mid_block_type": None}, 0, None),
    "BK-SDM-Tiny": (SHALLOW, 0, None),
    "SDXS-512-0.9": (
        {
            **SHALLOW,
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 1024,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "use_linear_projection": True,
        },
        0,
        None,
    ),
}
CONTROL_XL = {key: value for key, value in SDXL.items() if key not in ("sample_size", "up_block_types")} | {
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "num_attention_heads": None,
}
CONTROLS: dict[str, tuple[dict[str, Any], int, str]] = {
    "SD 1.5": ({"cross_attention_dim": 768}, 0, "361.28"),
    "SDXL": (CONTROL_XL, 6, "1.25e3"),
}
CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "eos_token_id": 2,
}
# The name, then: configuration, with projection, millions of parameters.
TEXTS: dict[str, tuple[dict[str, Any], bool, str]] = {
    "CLIP-L": (CLIP_L, False, "123.06"),
    "OpenCLIP-H": (
        {
            **CLIP_L,
            "hidden_size": 1024,
            "hidden_act": "gelu",
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
        },
        False,
        "340.39",
    ),
    "OpenCLIP-bigG": (
        {
            **CLIP_L,
            "hidden_size": 1280,
            "hidden_act": "gelu",
            "intermediate_size": 5120,
            "num_attention_heads": 20,
            "num_hidden_layers": 32,
            "projection_dim": 1280,
        },
        True,
        "694.66",
    ),
}


def same(graphs: list[Graph], module: Any, millions: str | None) -> None:
    """Names and shapes agree, and their sum is the published one within its precision."""
    recorded = {p.name.removeprefix("text_model."): p.shape for graph in graphs for p in graph.parameters}
    wanted = {
        name.removeprefix("text_model."): tuple(value.shape) for name, value in module.named_parameters()
    }
    assert recorded == wanted
    count = sum(p.size for p in {p.name: p for graph in graphs for p in graph.parameters}.values()) / 1e6
    if millions is not None:
        last_digit = 10.0 ** int(Decimal(millions).as_tuple().exponent)
        assert count == pytest.approx(float(millions), abs=last_digit / 2)


@pytest.mark.parametrize("name", UNETS)
def test_unets(name: str) -> None:
    config, ids, millions = UNETS[name]
    with torch.device("meta"):
        module = diffusers.UNet2DConditionModel(**config)
    net = unet2d_condition.configure(config, "unet")
    same([unet2d_condition.record(net, ids=ids)], module, millions)
    if net.added is not None:
        # The text vector is that of OpenCLIP-bigG, whatever the count of sizes.
        assert net.added.inputs - ids * net.added.channels == 1280


@pytest.mark.parametrize("name", CONTROLS)
def test_controlnets(name: str) -> None:
    config, ids, millions = CONTROLS[name]
    with torch.device("meta"):
        module = diffusers.ControlNetModel(**config)
    same([controlnet.record(controlnet.configure(config, "controlnet"), ids=ids)], module, millions)


@pytest.mark.parametrize("name", TEXTS)
def test_text_encoders(name: str) -> None:
    config, projected, millions = TEXTS[name]
    kinds = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    with torch.device("meta"):
        module = kinds(transformers.CLIPTextConfig(**config))
    net = clip_text.configure(config, "text_encoder", projected)
    same([clip_text.record(net, states=projected)], module, millions)


def test_autoencoders() -> None:
    config: dict[str, Any] = {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
    }
    without = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
    for each, millions in ((config, "83.65"), ({**config, **without}, None)):
        with torch.device("meta"):
            module = diffusers.AutoencoderKL(**each)
        net = autoencoder_kl.configure(each, "vae")
        graphs = [autoencoder_kl.record_encoder(net), autoencoder_kl.record_decoder(net)]
        same(graphs, module, millions)
    with torch.device("meta"):
        tiny = diffusers.AutoencoderTiny()
    small = autoencoder_tiny.configure({}, "vae")
    same([autoencoder_tiny.record_encoder(small), autoencoder_tiny.record_decoder(small)], tiny, "2.4")


def test_work_of_sdxl() -> None:
    """What torch counts, running the module on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        module = diffusers.UNet2DConditionModel(**SDXL)
        added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        with FlopCounterMode(display=False) as counter:
            module(
                torch.empty(1, 4, 128, 128),
                torch.empty(1),
                torch.empty(1, 77, 2048),
                added_cond_kwargs=added,
            )
    graph = unet2d_condition.record(unet2d_condition.configure(SDXL, "unet"))
    work = flops(graph, {"sample": (128, 128), "encoder_hidden_states": (77,)})
    assert work["total"] == counter.get_total_flops()
