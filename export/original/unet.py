"""The configuration of a U-Net or ControlNet from its tensors' shapes, in the original layout or diffusers'.

What shapes do not tell is as in every published model of these kinds: 32 groups in norms, and heads of 64
channels where text is read through linear layers, else 8 heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgediff.errors import SourceError
from edgediff.export.original.shapes import Shapes

_HEADS, _HEAD_CHANNELS, _TIME_IDS_CHANNELS = 8, 64, 256


@dataclass(frozen=True, slots=True)
class _Layer:
    """A resnet's width, and its transformer's blocks (None: no transformer)."""

    width: int
    depth: int | None


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Layers by level, in the order in which the network runs; ``middle`` as in ``_Layer``."""

    down: list[list[_Layer]]
    middle: _Layer | None
    up: list[list[_Layer]]
    attention: str  # the path of one transformer


def is_original(shapes: Shapes) -> bool:
    """Whether the names are those of the original layout."""
    return "input_blocks.0.0.weight" in shapes


def is_diffusers(shapes: Shapes) -> bool:
    """Whether the names are diffusers' for a U-Net or a ControlNet."""
    return "conv_in.weight" in shapes and "time_embedding.linear_1.weight" in shapes


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """What the ``config.json`` of this U-Net would say, but for ``sample_size``.

    Raises:
        SourceError: the tensors are not those of a ``UNet2DConditionModel``.
    """
    original = is_original(shapes)
    blocks = _original(shapes) if original else _diffusers(shapes)
    if [len(level) - 1 for level in blocks.up] != [len(level) for level in reversed(blocks.down)]:
        raise SourceError(f"{shapes.where}: the two halves of its U-Net do not fit together.")
    out = shapes.of("out.2.weight" if original else "conv_out.weight", 4)[0]
    config = {
        "_class_name": "UNet2DConditionModel",
        "out_channels": out,
        **_trunk(shapes, blocks),
        "up_block_types": [
            "CrossAttnUpBlock2D" if _attends(shapes, level) else "UpBlock2D" for level in blocks.up
        ],
        **_depths(blocks),
    }
    guidance = "time_embed.cond_proj.weight" if original else "time_embedding.cond_proj.weight"
    if guidance in shapes:
        config["time_cond_proj_dim"] = shapes.of(guidance, 2)[1]
    return config


def controlnet_config(shapes: Shapes) -> dict[str, Any]:
    """The same for a ``ControlNetModel``."""
    original = is_original(shapes)
    blocks = _original(shapes) if original else _diffusers(shapes)
    path = "input_hint_block.{}.weight" if original else "controlnet_cond_embedding.blocks.{}.weight"
    first = shapes.of(path.format(0) if original else "controlnet_cond_embedding.conv_in.weight", 4)
    hints: list[int] = [first[0]]
    # Convolutions come in pairs: one keeps the width, the next widens and halves the picture.
    n, stride = (4, 4) if original else (1, 2)
    while path.format(n) in shapes and (not original or path.format(n + 2) in shapes):
        hints.append(shapes.of(path.format(n), 4)[0])
        n += stride
    return {
        "_class_name": "ControlNetModel",
        **_trunk(shapes, blocks),
        **_depths(blocks),
        "conditioning_channels": first[1],
        "conditioning_embedding_out_channels": hints,
    }


def _trunk(shapes: Shapes, blocks: _Blocks) -> dict[str, Any]:
    """What both kinds of network have: levels, inputs, and what is added to the time."""
    original = is_original(shapes)
    first = shapes.of("input_blocks.0.0.weight" if original else "conv_in.weight", 4)
    widths = []
    for level in blocks.down:
        if len({layer.width for layer in level}) != 1:
            raise SourceError(f"{shapes.where}: a level of its U-Net has no layers, or layers of two widths.")
        widths.append(level[0].width)
    layers = [len(level) for level in blocks.down]
    projection = f"{blocks.attention}.proj_in.weight"
    context = shapes.of(f"{blocks.attention}.transformer_blocks.0.attn2.to_k.weight", 2)[1]
    linear = shapes.rank(projection) == 2
    if linear and any(width % _HEAD_CHANNELS for width in widths):
        raise SourceError(
            f"{shapes.where}: its U-Net has {widths} channels, no multiples of {_HEAD_CHANNELS}; its "
            "number of heads cannot be told from the tensors. Give it as a folder with its config.json."
        )
    config: dict[str, Any] = {
        "in_channels": first[1],
        "block_out_channels": widths,
        "down_block_types": [
            "CrossAttnDownBlock2D" if _attends(shapes, level) else "DownBlock2D" for level in blocks.down
        ],
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "cross_attention_dim": context,
        "attention_head_dim": [width // _HEAD_CHANNELS for width in widths] if linear else _HEADS,
        "use_linear_projection": linear,
    }
    if blocks.middle is None:
        config["mid_block_type"] = None
    elif blocks.middle.depth is None:
        config["mid_block_type"] = "UNetMidBlock2D"
    added = "label_emb.0.0.weight" if original else "add_embedding.linear_1.weight"
    if added in shapes:
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = _TIME_IDS_CHANNELS
        config["projection_class_embeddings_input_dim"] = shapes.of(added, 2)[1]
    return config


def _depths(blocks: _Blocks) -> dict[str, Any]:
    """Transformer blocks, as briefly as diffusers can say it: one number, one per level, one per layer."""
    middle = None if blocks.middle is None else blocks.middle.depth
    down = [[layer.depth or 0 for layer in level] for level in blocks.down]
    up = [[layer.depth or 0 for layer in level] for level in blocks.up]
    used = {depth for level in [*down, *up] for depth in level} | {middle or 0}
    if len(used - {0}) <= 1:  # levels without transformers take any number
        return {"transformer_layers_per_block": max(used, default=1) or 1}
    sets = [set(level) for level in down]
    mirrored = not up or [set(level) for level in reversed(up)] == sets
    deepest = [d[0] if any(d) else 1 for d in down[:-1]] + [down[-1][0] or middle or 1]
    if mirrored and all(len(each) == 1 for each in sets) and (middle is None or middle == deepest[-1]):
        return {"transformer_layers_per_block": deepest}
    nested = [level if any(level) else 1 for level in down]
    if not any(down[-1]):
        nested[-1] = middle or 1
    found: dict[str, Any] = {"transformer_layers_per_block": nested}
    if up:
        found["reverse_transformer_layers_per_block"] = [level if any(level) else 1 for level in up]
    return found


def _attends(shapes: Shapes, level: list[_Layer]) -> bool:
    kinds = {layer.depth is not None for layer in level}
    if len(kinds) != 1:
        raise SourceError(f"{shapes.where}: a level of its U-Net has layers with and without transformers.")
    return kinds.pop()


def _original(shapes: Shapes) -> _Blocks:
    down: list[list[_Layer]] = [[]]
    attention, n = "middle_block.1", 1
    while True:
        path = f"input_blocks.{n}"
        if f"{path}.0.op.weight" in shapes:
            down.append([])
        elif f"{path}.0.in_layers.2.weight" in shapes:
            down[-1].append(_layer(shapes, f"{path}.0.in_layers.2", f"{path}.1"))
            attention = f"{path}.1" if down[-1][-1].depth else attention
        else:
            break
        n += 1
    up: list[list[_Layer]] = []
    for n in range(shapes.count("output_blocks.{}.0.in_layers.2.weight")):
        path = f"output_blocks.{n}"
        if not up or any(f"output_blocks.{n - 1}.{k}.conv.weight" in shapes for k in (1, 2)):
            up.append([])
        up[-1].append(_layer(shapes, f"{path}.0.in_layers.2", f"{path}.1"))
    middle = "middle_block.0.in_layers.2"
    has = f"{middle}.weight" in shapes
    return _Blocks(down, _layer(shapes, middle, "middle_block.1") if has else None, up, attention)


def _diffusers(shapes: Shapes) -> _Blocks:
    attention = "mid_block.attentions.0"
    halves: dict[str, list[list[_Layer]]] = {}
    for half in ("down_blocks", "up_blocks"):
        levels = halves[half] = []
        for i in range(shapes.count(half + ".{}.resnets.0.conv1.weight")):
            path = f"{half}.{i}"
            count = shapes.count(path + ".resnets.{}.conv1.weight")
            levels.append(
                [_layer(shapes, f"{path}.resnets.{j}.conv1", f"{path}.attentions.{j}") for j in range(count)]
            )
            attention = f"{path}.attentions.0" if levels[-1][0].depth else attention
    middle = "mid_block.resnets.0.conv1"
    has = f"{middle}.weight" in shapes
    found = _layer(shapes, middle, "mid_block.attentions.0") if has else None
    return _Blocks(halves["down_blocks"] or [[]], found, halves["up_blocks"], attention)


def _layer(shapes: Shapes, convolution: str, attention: str) -> _Layer:
    width = shapes.of(f"{convolution}.weight", 4)[0]
    if f"{attention}.norm.weight" not in shapes:
        return _Layer(width, None)
    return _Layer(width, shapes.count(attention + ".transformer_blocks.{}.norm1.weight"))
