"""Module names of the original layout (LDM, SGM) and diffusers' names for the same modules.

Both are computed from diffusers' configuration, so that any depth and width is covered. Keys are module paths
of the original layout without a prefix such as ``model.diffusion_model.``; values are diffusers'. A module's
parameters (``weight``, ``bias``) have the same names in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Names = dict[str, str]

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_TRANSFORMER_BLOCK = (
    "norm1", "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
    "norm2", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
    "norm3", "ff.net.0.proj", "ff.net.2",
)  # fmt: skip
_OPENCLIP_LAYER = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def unet_names(config: Mapping[str, Any]) -> Names:
    """Every module with parameters of the U-Net that a ``UNet2DConditionModel`` configuration describes.

    ``input_blocks.1.1.transformer_blocks.0.attn1.to_q`` is
    ``down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q``, and so on. Modules that only some files of
    a kind have (``time_embed.cond_proj``) are listed where the configuration has them.
    """
    levels = _levels(config)
    names = {**_head(config), **_contracting(levels), **_middle(config, levels[-1])}
    names |= {f"output_blocks.{key}": value for key, value in _expanding(levels)}
    return names | {"out.0": "conv_norm_out", "out.2": "conv_out"}


def controlnet_names(config: Mapping[str, Any]) -> Names:
    """The same of a ``ControlNetModel`` configuration: half a U-Net, a hint encoder, zero convolutions."""
    levels = _levels(config)
    names = {**_head(config), **_contracting(levels), **_middle(config, levels[-1])}
    hints = 2 * len(config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))) - 2
    embedding = "controlnet_cond_embedding"
    names["input_hint_block.0"] = f"{embedding}.conv_in"  # every second entry is an activation
    names |= {f"input_hint_block.{2 * i + 2}": f"{embedding}.blocks.{i}" for i in range(hints)}
    names[f"input_hint_block.{2 * hints + 2}"] = f"{embedding}.conv_out"
    zeros = sum(level.layers for level in levels) + len(levels)
    names |= {f"zero_convs.{i}.0": f"controlnet_down_blocks.{i}" for i in range(zeros)}
    return names | {"middle_block_out.0": "controlnet_mid_block"}


def vae_names(config: Mapping[str, Any]) -> Names:
    """The same of an ``AutoencoderKL`` configuration. The original decoder counts its levels backwards."""
    widths = tuple(config.get("block_out_channels", (64,)))
    layers, last = int(config.get("layers_per_block", 1)), len(widths) - 1
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        names |= {f"{side}.conv_in": f"{side}.conv_in", f"{side}.norm_out": f"{side}.conv_norm_out"}
        names[f"{side}.conv_out"] = f"{side}.conv_out"
        for i in (1, 2):
            names |= _vae_resnet(f"{side}.mid.block_{i}", f"{side}.mid_block.resnets.{i - 1}")
        if config.get("mid_block_add_attention", True):
            attention = f"{side}.mid_block.attentions.0"
            names |= {f"{side}.mid.attn_1.{old}": f"{attention}.{new}" for old, new in _ATTENTION.items()}
    for i, width in enumerate(widths):
        old, new = f"encoder.down.{i}", f"encoder.down_blocks.{i}"
        for j in range(layers):
            widened = j == 0 and width != widths[max(0, i - 1)]
            names |= _vae_resnet(f"{old}.block.{j}", f"{new}.resnets.{j}", widened)
        if i < last:
            names[f"{old}.downsample.conv"] = f"{new}.downsamplers.0.conv"
        old, new = f"decoder.up.{i}", f"decoder.up_blocks.{last - i}"
        for j in range(layers + 1):
            narrowed = j == 0 and width != widths[min(last, i + 1)]
            names |= _vae_resnet(f"{old}.block.{j}", f"{new}.resnets.{j}", narrowed)
        if i > 0:
            names[f"{old}.upsample.conv"] = f"{new}.upsamplers.0.conv"
    return names


def openclip_names(layers: int) -> Names:
    """OpenCLIP's text encoder and transformers' names, but for what is no module of its own.

    These are ``positional_embedding`` and ``text_projection``, which are parameters, and ``attn.in_proj_*``,
    where queries', keys' and values' rows follow each other; ``edgediff.export.original.parts`` has them.
    """
    names = {
        "token_embedding": "text_model.embeddings.token_embedding",
        "ln_final": "text_model.final_layer_norm",
    }
    for i in range(layers):
        old, new = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        names |= {f"{old}.{key}": f"{new}.{value}" for key, value in _OPENCLIP_LAYER.items()}
    return names


@dataclass(frozen=True, slots=True)
class _Level:
    """One resolution: ``before`` is the width that enters it; depths are those of its transformers, by layer
    (None: the level has none)."""

    before: int
    width: int
    layers: int
    down: tuple[int, ...] | None
    up: tuple[int, ...] | None
    middle: int


def _levels(config: Mapping[str, Any]) -> list[_Level]:
    widths = tuple(config.get("block_out_channels", (320, 640, 1280, 1280)))
    count = len(widths)
    layers = _spread(config.get("layers_per_block", 2), count)
    depths = _spread(config.get("transformer_layers_per_block", 1), count)
    reverse = config.get("reverse_transformer_layers_per_block")
    ups = depths if reverse is None else _spread(reverse, count)[::-1]
    attends = ["CrossAttn" in kind for kind in config.get("down_block_types", ("CrossAttn",) * 3 + ("",))]
    kinds = config.get("up_block_types", ("",) + ("CrossAttn",) * 3)
    attends_up = ["CrossAttn" in kind for kind in kinds][::-1]
    attends_up += attends[len(attends_up) :]  # a ControlNet has no expanding half
    return [
        _Level(
            before=widths[max(0, i - 1)],
            width=widths[i],
            layers=layers[i],
            down=_spread(depths[i], layers[i]) if attends[i] else None,
            up=_spread(ups[i], layers[i] + 1) if attends_up[i] else None,
            middle=_spread(depths[i], 1)[0],
        )
        for i in range(count)
    ]


def _spread(value: Any, count: int) -> tuple[Any, ...]:
    """One value for all, or a list of values."""
    return tuple(value) if isinstance(value, list | tuple) else (value,) * count


def _head(config: Mapping[str, Any]) -> Names:
    """The time vector and what is added to it, and the first convolution."""
    names = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
    }
    if config.get("time_cond_proj_dim") is not None:
        names["time_embed.cond_proj"] = "time_embedding.cond_proj"
    added = "add_embedding" if config.get("addition_embed_type") is not None else None
    if added is None and config.get("class_embed_type") == "projection":
        added = "class_embedding"
    if added is not None:
        names |= {"label_emb.0.0": f"{added}.linear_1", "label_emb.0.2": f"{added}.linear_2"}
    return names


def _contracting(levels: list[_Level]) -> Names:
    names, n = Names(), 1
    for i, level in enumerate(levels):
        for j in range(level.layers):
            widened = j == 0 and level.before != level.width
            names |= _resnet(f"input_blocks.{n}.0", f"down_blocks.{i}.resnets.{j}", widened)
            if level.down is not None:
                names |= _transformer(f"input_blocks.{n}.1", f"down_blocks.{i}.attentions.{j}", level.down[j])
            n += 1
        if i < len(levels) - 1:
            names[f"input_blocks.{n}.0.op"] = f"down_blocks.{i}.downsamplers.0.conv"
            n += 1
    return names


def _middle(config: Mapping[str, Any], level: _Level) -> Names:
    kind = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if kind is None:
        return {}
    names = _resnet("middle_block.0", "mid_block.resnets.0", False)
    if "CrossAttn" in kind:  # diffusers' UNetMidBlock2D is a single resnet here
        names |= _transformer("middle_block.1", "mid_block.attentions.0", level.middle)
        names |= _resnet("middle_block.2", "mid_block.resnets.1", False)
    return names


def _expanding(levels: list[_Level]) -> Iterator[tuple[str, str]]:
    n, last, entering = 0, len(levels) - 1, levels[-1].width
    for i, level in enumerate(reversed(levels)):
        for j in range(level.layers + 1):
            joined = entering + (level.before if j == level.layers else level.width)  # with a skip connection
            yield from _resnet(f"{n}.0", f"up_blocks.{i}.resnets.{j}", joined != level.width).items()
            entering = level.width
            if level.up is not None:
                yield from _transformer(f"{n}.1", f"up_blocks.{i}.attentions.{j}", level.up[j]).items()
            if j == level.layers and i < last:
                yield f"{n}.{1 if level.up is None else 2}.conv", f"up_blocks.{i}.upsamplers.0.conv"
            n += 1


def _resnet(old: str, new: str, widened: bool) -> Names:
    names = {f"{old}.{key}": f"{new}.{value}" for key, value in _RESNET.items()}
    return names | ({f"{old}.skip_connection": f"{new}.conv_shortcut"} if widened else {})


def _transformer(old: str, new: str, depth: int) -> Names:
    inner = [
        "norm",
        "proj_in",
        *(f"transformer_blocks.{k}.{m}" for k in range(depth) for m in _TRANSFORMER_BLOCK),
    ]
    return {f"{old}.{key}": f"{new}.{key}" for key in [*inner, "proj_out"]}


def _vae_resnet(old: str, new: str, widened: bool = False) -> Names:
    names = {f"{old}.{key}": f"{new}.{key}" for key in ("norm1", "conv1", "norm2", "conv2")}
    return names | ({f"{old}.nin_shortcut": f"{new}.conv_shortcut"} if widened else {})
