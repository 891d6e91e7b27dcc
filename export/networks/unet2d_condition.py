"""The conditional U-Net of Stable Diffusion 1 (Rombach et al. 2022), as diffusers' UNet2DConditionModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgediff.errors import SourceError
from edgediff.export.emit.graph import Graph, Kind, Value
from edgediff.export.emit.ops import Ops
from edgediff.export.networks.blocks import resnet, transformer
from edgediff.export.networks.settings import Settings

_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")
_MID = "UNetMidBlock2DCrossAttn"
# Accepted at these values only: each of them adds or changes a module.
_FIXED: dict[str, Any] = {
    "addition_embed_type": None,
    "attention_type": "default",
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_embedding_act_fn": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
# Without effect at inference in float32, or read only beside a switch that is refused above.
_WITHOUT_EFFECT = (
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "dropout",
    "projection_class_embeddings_input_dim",
    "sample_size",
    "upcast_attention",
)


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of the U-Net."""

    channels: int
    layers: int
    heads: int
    transformer_layers: int
    context: int
    attends_down: bool
    attends_up: bool


@dataclass(frozen=True, slots=True)
class UNet2DCondition:
    """What the configuration says, in the network's terms; ``levels`` from the finest to the coarsest."""

    in_channels: int
    out_channels: int
    levels: tuple[Level, ...]
    has_middle: bool
    middle_factor: float
    groups: int
    eps: float
    linear_projection: bool
    asymmetric: bool
    cosine_first: bool
    frequency_shift: float
    time_channels: int
    guidance_channels: int | None
    center: bool
    kernel_in: int
    kernel_out: int


def configure(config: Mapping[str, Any], where: str) -> UNet2DCondition:
    """Read ``unet/config.json``. Missing keys have diffusers' defaults."""
    s = Settings(config, where)
    widths = s.integers("block_out_channels", (320, 640, 1280, 1280))
    count = len(widths)
    down = s.words("down_block_types", (*[_DOWN[0]] * 3, _DOWN[1]), _DOWN, count)
    up = s.words("up_block_types", (_UP[1], *[_UP[0]] * 3), _UP, count)
    layers = s.integers("layers_per_block", 2, count)
    # diffusers' "attention_head_dim" is the number of heads wherever "num_attention_heads" is absent.
    heads = s.integers("attention_head_dim", 8, count)
    depths = s.integers("transformer_layers_per_block", 1, count)
    contexts = s.integers("cross_attention_dim", 1280, count)
    if len(set(contexts)) > 1:
        raise SourceError(
            f"{where}: cross_attention_dim differs between blocks; one text encoder feeds them all."
        )
    for switch in ("only_cross_attention", "mid_block_only_cross_attention"):
        s.choice(switch, False, [False, [False] * count, None])
    s.choice("act_fn", "silu", ["silu", "swish"])
    guidance = config.get("time_cond_proj_dim")
    time_channels = 4 * widths[0]
    if config.get("time_embedding_dim") is not None:
        time_channels = s.integer("time_embedding_dim")
    shape = UNet2DCondition(
        in_channels=s.integer("in_channels", 4),
        out_channels=s.integer("out_channels", 4),
        levels=tuple(
            Level(
                widths[i],
                layers[i],
                heads[i],
                depths[i],
                contexts[i],
                down[i] == _DOWN[0],
                up[-1 - i] == _UP[0],
            )
            for i in range(count)
        ),
        has_middle=s.choice("mid_block_type", _MID, [_MID, None]) is not None,
        middle_factor=1.0 / s.positive("mid_block_scale_factor", 1.0),
        groups=s.integer("norm_num_groups", 32),
        eps=s.positive("norm_eps", 1e-5),
        linear_projection=s.flag("use_linear_projection", False),
        asymmetric=s.choice("downsample_padding", 1, [0, 1]) == 0,
        cosine_first=s.flag("flip_sin_to_cos", True),
        frequency_shift=s.number("freq_shift", 0),
        time_channels=time_channels,
        guidance_channels=None if guidance is None else s.integer("time_cond_proj_dim"),
        center=s.flag("center_input_sample", False),
        kernel_in=s.choice("conv_in_kernel", 3, [1, 3, 5, 7]),
        kernel_out=s.choice("conv_out_kernel", 3, [1, 3, 5, 7]),
    )
    s.fixed(_FIXED)
    s.ignored("time_cond_proj_dim", "time_embedding_dim", *_WITHOUT_EFFECT)
    s.finish()
    return shape


def record(net: UNet2DCondition) -> Graph:
    """The noise prediction: ``sample``, ``timestep``, ``encoder_hidden_states`` -> ``out_sample``."""
    ops = Ops("unet")
    sample = ops.input("sample", Kind.IMAGE, net.in_channels, "height", "width")
    timestep = ops.input("timestep", Kind.TIME)
    text = ops.input("encoder_hidden_states", Kind.TOKENS, net.levels[0].context, "sequence_length")
    time = _time(ops, net, timestep)
    x = ops.affine(sample, 2.0, -1.0) if net.center else sample
    x = ops.conv(x, "conv_in", net.levels[0].channels, net.kernel_in)
    skips = [x]
    for i, level in enumerate(net.levels):
        with ops.scope(f"down_blocks.{i}"):
            for j in range(level.layers):
                x = _layer(ops, net, x, j, level, time, text if level.attends_down else None)
                skips.append(x)
            if i < len(net.levels) - 1:
                x = ops.downsample(x, "downsamplers.0.conv", level.channels, net.asymmetric)
                skips.append(x)
    if net.has_middle:
        x = _middle(ops, net, x, time, text)
    for i, level in enumerate(reversed(net.levels)):
        with ops.scope(f"up_blocks.{i}"):
            for j in range(level.layers + 1):
                x = ops.concat(x, skips.pop())
                x = _layer(ops, net, x, j, level, time, text if level.attends_up else None)
            if skips:
                x = ops.conv(ops.upsample_like(x, skips[-1]), "upsamplers.0.conv", level.channels)
    x = ops.silu(ops.group_norm(x, "conv_norm_out", net.groups, net.eps))
    ops.output("out_sample", ops.conv(x, "conv_out", net.out_channels, net.kernel_out), "height", "width")
    return ops.graph()


def _time(ops: Ops, net: UNet2DCondition, timestep: Value) -> Value:
    """The time vector, activated: every consumer begins with the same SiLU."""
    channels = net.levels[0].channels
    wave = ops.timestep_embedding(timestep, channels, net.cosine_first, net.frequency_shift)
    with ops.scope("time_embedding"):
        if net.guidance_channels is not None:
            guidance = ops.input("timestep_cond", Kind.VECTOR, net.guidance_channels)
            wave = ops.add(ops.linear(guidance, "cond_proj", channels, bias=False), wave)
        hidden = ops.silu(ops.linear(wave, "linear_1", net.time_channels))
        return ops.silu(ops.linear(hidden, "linear_2", net.time_channels))


def _layer(
    ops: Ops, net: UNet2DCondition, x: Value, j: int, level: Level, time: Value, text: Value | None
) -> Value:
    x = resnet(ops, x, f"resnets.{j}", level.channels, net.groups, net.eps, time)
    return x if text is None else _attention(ops, net, x, j, level, text)


def _attention(ops: Ops, net: UNet2DCondition, x: Value, j: int, level: Level, text: Value) -> Value:
    return transformer(
        ops,
        x,
        f"attentions.{j}",
        level.transformer_layers,
        level.heads,
        net.groups,
        text,
        net.linear_projection,
    )


def _middle(ops: Ops, net: UNet2DCondition, x: Value, time: Value, text: Value) -> Value:
    level = net.levels[-1]
    with ops.scope("mid_block"):
        x = resnet(ops, x, "resnets.0", level.channels, net.groups, net.eps, time, net.middle_factor)
        x = _attention(ops, net, x, 0, level, text)
        return resnet(ops, x, "resnets.1", level.channels, net.groups, net.eps, time, net.middle_factor)
