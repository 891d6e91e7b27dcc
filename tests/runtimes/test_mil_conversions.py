"""coremltools' own conversions of whole networks: the interpreter against PyTorch.

What coremltools 9 writes for iOS 15 to 18, in single and half precision; nothing of it was made by edgediff.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytest.importorskip("coremltools")

from mil_helpers import decibels, ran, relative  # noqa: E402
from mil_traced import convert, randomise  # noqa: E402

from tests.thorough import THOROUGH  # noqa: E402

pytestmark = pytest.mark.parity

FLOAT, HALF = 1e-4, 45.0  # by the largest value; decibels
BLOCKS: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 12,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
UNET: dict[str, Any] = {
    **BLOCKS,
    "sample_size": 8,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
XL: dict[str, Any] = {
    **UNET,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 10 + 6 * 8,
}
Made = tuple[Any, Callable[..., Any], list[Any]]


def rand(*shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def unet(batch: int = 1, size: tuple[int, int] = (8, 8), **config: Any) -> Made:
    module = diffusers.UNet2DConditionModel(**{**UNET, **config})
    channels, width = module.config.in_channels, module.config.cross_attention_dim
    call = lambda m, x, t, h: m(x, t, h, return_dict=False)[0]  # noqa: E731
    return module, call, [rand(batch, channels, *size), torch.tensor([301.0] * batch), rand(batch, 5, width)]


def xl() -> Made:
    def call(m: Any, x: Any, t: Any, h: Any, text: Any, ids: Any) -> Any:
        return m(x, t, h, added_cond_kwargs={"text_embeds": text, "time_ids": ids}, return_dict=False)[0]

    ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(2, 1)
    tensors = [rand(2, 4, 8, 8), torch.tensor([301.0] * 2), rand(2, 5, 12), rand(2, 10), ids]
    return diffusers.UNet2DConditionModel(**XL), call, tensors


def guided() -> Made:
    def call(m: Any, x: Any, t: Any, h: Any, w: Any) -> Any:
        return m(x, t, h, timestep_cond=w, return_dict=False)[0]

    module = diffusers.UNet2DConditionModel(**UNET, time_cond_proj_dim=6)
    return module, call, [rand(1, 4, 8, 8), torch.tensor([301.0]), rand(1, 5, 12), rand(1, 6)]


def controlled() -> Made:
    def call(m: Any, x: Any, t: Any, h: Any, middle: Any, *down: Any) -> Any:
        found = m(x, t, h, down_block_additional_residuals=down, mid_block_additional_residual=middle)
        return found.sample

    sizes = [(16, 8), (16, 8), (16, 4), (32, 4)]
    down = [rand(1, channels, size, size) for channels, size in sizes]
    tensors = [rand(1, 4, 8, 8), torch.tensor([301.0]), rand(1, 5, 12), rand(1, 32, 4, 4), *down]
    return diffusers.UNet2DConditionModel(**UNET), call, tensors


def control_net() -> Made:
    def call(m: Any, x: Any, t: Any, h: Any, picture: Any) -> Any:
        down, middle = m(x, t, h, picture, conditioning_scale=1.0, return_dict=False)
        return (*down, middle)

    module = diffusers.ControlNetModel(**BLOCKS, conditioning_embedding_out_channels=(8, 16))
    return module, call, [rand(1, 4, 8, 8), torch.tensor([301.0]), rand(1, 5, 12), rand(1, 3, 16, 16)]


def autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    )


def decoder() -> Made:
    call = lambda m, z: m.decode(z, return_dict=False)[0]  # noqa: E731
    return autoencoder(), call, [rand(1, 4, 8, 6)]


def encoder() -> Made:
    call = lambda m, x: m.quant_conv(m.encoder(x))  # noqa: E731
    return autoencoder(), call, [rand(1, 3, 16, 12)]


def tiny(side: str) -> Made:
    module = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip
    call = lambda m, x: getattr(m, side)(x)  # noqa: E731
    return module, call, [rand(1, 3, 16, 16) if side == "encoder" else rand(1, 4, 8, 8)]


def text(activation: str, hidden: bool) -> Made:
    config = transformers.CLIPTextConfig(
        vocab_size=99, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=9, hidden_act=activation, eos_token_id=98, projection_dim=8,
    )  # fmt: skip
    config._attn_implementation = "eager"
    module = transformers.CLIPTextModelWithProjection(config)

    def call(m: Any, ids: Any) -> Any:
        found = m(input_ids=ids, output_hidden_states=True)
        return (found.hidden_states[-2], found.text_embeds) if hidden else found.last_hidden_state

    return module, call, [torch.tensor([[97, 4, 5, 6, 98, 98, 98, 98, 98]], dtype=torch.int32)]


NETWORKS: dict[str, Callable[[], Made]] = {
    "unet": unet,
    "unet, no square, batch of 2": lambda: unet(2, (8, 12)),
    "unet, three levels": lambda: unet(
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ),
    "unet, linear projection": lambda: unet(use_linear_projection=True),
    "unet, scale and shift": lambda: unet(resnet_time_scale_shift="scale_shift"),
    "unet, pooled and interpolated": lambda: unet(
        down_block_types=("ResnetDownsampleBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D"),
    ),
    "unet of XL": xl,
    "unet, guided": guided,
    "unet, controlled": controlled,
    "control net": control_net,
    "decoder": decoder,
    "encoder": encoder,
    "tiny decoder": lambda: tiny("decoder"),
    "tiny encoder": lambda: tiny("encoder"),
    "text, quick gelu": lambda: text("quick_gelu", False),
    "text, gelu, projected": lambda: text("gelu", True),
}
ALL = ("iOS15", "iOS16", "iOS17", "iOS18")
# Two networks for all targets; every other one turn about for the oldest target that edgediff writes in half
# precision and for the newest in float32, and in the thorough run for both.
HALVES = {"iOS15": (False,), "iOS16": (True,), "iOS17": (False, True), "iOS18": (False, True)}
WHOLE = ("unet", "text, gelu, projected")
TURNS = (("iOS17", True), ("iOS18", False))
FORMS = [(name, target, half) for name in WHOLE for target in ALL for half in HALVES[target]] + [
    (name, *form)
    for i, name in enumerate(n for n in NETWORKS if n not in WHOLE)
    for form in (TURNS if THOROUGH else TURNS[i % 2 :][:1])
]


QUICK = {
    ("unet", "iOS17", True),
    ("unet of XL", "iOS18", False),
    ("decoder", "iOS17", True),
    ("tiny decoder", "iOS18", False),
    ("text, gelu, projected", "iOS18", True),
}


@pytest.mark.parametrize(
    ("name", "target", "half"),
    [
        pytest.param(name, target, half, marks=() if (name, target, half) in QUICK else pytest.mark.slow)
        for name, target, half in FORMS
    ],
)
def test_network(name: str, target: str, half: bool, tmp_path: Path) -> None:
    module, call, tensors = NETWORKS[name]()
    path = tmp_path / "a.mlpackage"
    feeds, due = convert(path, randomise(module), call, tensors, target, half)
    found = ran(path, feeds)
    for i, value in enumerate(due):
        if half:
            assert decibels(found[f"out_{i}"], value) > HALF
        else:
            assert relative(found[f"out_{i}"], value) < FLOAT
