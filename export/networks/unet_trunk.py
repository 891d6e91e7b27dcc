"""What a U-Net and its ControlNet have in common: the way down through the levels, and the middle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgediff.errors import SourceError
from edgediff.export.emit.graph import Value
from edgediff.export.emit.ops import Ops
from edgediff.export.networks.blocks import resnet, transformer
from edgediff.export.networks.settings import Settings

DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_MIDDLES: dict[str | None, Literal["attention", "plain", "none"]] = {
    "UNetMidBlock2DCrossAttn": "attention",
    "UNetMidBlock2D": "plain",
    None: "none",
}
# Accepted at these values only: each of them adds or changes a module.
_FIXED = {"attention_type": "default", "encoder_hid_dim": None, "encoder_hid_dim_type": None}
# Without effect at inference in float32.
_WITHOUT_EFFECT = ("dropout", "sample_size", "upcast_attention")


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution. A tuple of depths has the transformer layers after each resnet; empty: no attention.

    ``only_cross``: what is self-attention elsewhere reads the text here.
    """

    channels: int
    layers: int
    heads: int
    context: int
    only_cross: bool
    down: tuple[int, ...]
    up: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trunk:
    """``levels`` from the finest to the coarsest; ``plain`` middles have one resnet and no attention."""

    levels: tuple[Level, ...]
    middle: Literal["attention", "plain", "none"]
    middle_depth: int
    middle_factor: float
    groups: int
    eps: float
    linear_projection: bool
    asymmetric: bool
    scale_shift: bool

    @property
    def context(self) -> int:
        """Channels of the text that is attended to."""
        return self.levels[0].context

    @property
    def skips(self) -> tuple[tuple[int, int], ...]:
        """Channels and number of halvings of each value that the way down hands to the way up."""
        found = [(self.levels[0].channels, 0)]
        for i, level in enumerate(self.levels):
            found += [(level.channels, i)] * level.layers
            if i < len(self.levels) - 1:
                found.append((level.channels, i + 1))
        return tuple(found)


def configure(s: Settings, where: str, up: tuple[bool, ...] = (), control: bool = False) -> Trunk:
    """Read the keys about levels and middle; ``up``: which levels attend on the way up, coarsest first."""
    widths = s.integers("block_out_channels", (320, 640, 1280, 1280))
    count = len(widths)
    down = s.words("down_block_types", (*[DOWN[0]] * 3, DOWN[1]), DOWN, count)
    if control:
        layers = (s.integer("layers_per_block", 2),) * count
    else:
        layers = s.integers("layers_per_block", 2, count)
    # diffusers' "attention_head_dim" is the number of heads wherever "num_attention_heads" is absent, and
    # a U-Net refuses "num_attention_heads".
    heads = s.integers("attention_head_dim", 8, count)
    if not control:
        s.fixed({"num_attention_heads": None, "dual_cross_attention": False, "cross_attention_norm": None})
    elif s.given("num_attention_heads"):
        heads = s.integers("num_attention_heads", 8, count)
    contexts = s.integers("cross_attention_dim", 1280, count)
    if len(set(contexts)) > 1:
        raise SourceError(
            f"{where}: cross_attention_dim differs between blocks; one text encoder feeds them all."
        )
    only_cross = s.flags("only_cross_attention", count)
    depths, back = _depths(s, where, count, control)
    middles = [name for name in _MIDDLES if name is not None or not control]
    s.choice("act_fn", "silu", ["silu", "swish"])
    trunk = Trunk(
        levels=tuple(
            Level(
                widths[i],
                layers[i],
                heads[i],
                contexts[i],
                only_cross[i],
                _each(where, depths[i], layers[i]) if down[i] == DOWN[0] else (),
                _each(where, back[i], layers[i] + 1) if up and up[-1 - i] else (),
            )
            for i in range(count)
        ),
        middle=_MIDDLES[s.choice("mid_block_type", "UNetMidBlock2DCrossAttn", middles)],
        middle_depth=last if isinstance(last := depths[-1], int) else last[0],
        middle_factor=1.0 / s.positive("mid_block_scale_factor", 1.0),
        groups=s.integer("norm_num_groups", 32),
        eps=s.positive("norm_eps", 1e-5),
        linear_projection=s.flag("use_linear_projection", False),
        asymmetric=s.choice("downsample_padding", 1, [0, 1]) == 0,
        scale_shift=s.choice("resnet_time_scale_shift", "default", ["default", "scale_shift"]) != "default",
    )
    s.fixed(_FIXED)
    s.ignored(*_WITHOUT_EFFECT)
    return trunk


Depth = int | tuple[int, ...]


def _depths(
    s: Settings, where: str, count: int, control: bool
) -> tuple[tuple[Depth, ...], tuple[Depth, ...]]:
    """Transformer layers per level on the way down and on the way up, both from the finest level on."""
    depths = s.nested("transformer_layers_per_block", 1, count)
    if control:
        return depths, depths
    if s.given("reverse_transformer_layers_per_block"):
        return depths, s.nested("reverse_transformer_layers_per_block", 1, count)[::-1]
    if not all(isinstance(depth, int) for depth in depths):
        raise SourceError(
            f"{where}: transformer_layers_per_block is {depths}: lists within it say nothing of the way up. "
            "reverse_transformer_layers_per_block must be given too."
        )
    return depths, depths


def _each(where: str, depth: Depth, layers: int) -> tuple[int, ...]:
    """One depth per resnet."""
    if isinstance(depth, int):
        return (depth,) * layers
    if len(depth) != layers:
        raise SourceError(
            f"{where}: transformer_layers_per_block or its reverse has {list(depth)} for {layers} layers."
        )
    return depth


def extents(halvings: int) -> tuple[str, str]:
    """Names for the extents of a value that was halved so often, as the interface of a graph has them."""
    return ("height", "width") if halvings == 0 else (f"height_{1 << halvings}", f"width_{1 << halvings}")


def record_down(ops: Ops, net: Trunk, x: Value, time: Value, text: Value) -> list[Value]:
    """Through all levels; every value that the way up reads, the deepest last (it is also the result)."""
    skips = [x]
    for i, level in enumerate(net.levels):
        with ops.scope(f"down_blocks.{i}"):
            for j in range(level.layers):
                x = layer(ops, net, x, j, level, level.down, time, text)
                skips.append(x)
            if i < len(net.levels) - 1:
                x = ops.downsample(x, "downsamplers.0.conv", level.channels, net.asymmetric)
                skips.append(x)
    return skips


def record_middle(ops: Ops, net: Trunk, x: Value, time: Value, text: Value) -> Value:
    """The coarsest level's own block, if the network has one."""
    if net.middle == "none":
        return x
    level = net.levels[-1]
    with ops.scope("mid_block"):
        x = _resnet(ops, net, x, 0, level, time, net.middle_factor)
        if net.middle == "plain":
            return x
        x = _attention(ops, net, x, 0, level, net.middle_depth, text, only_cross=False)
        return _resnet(ops, net, x, 1, level, time, net.middle_factor)


def layer(
    ops: Ops, net: Trunk, x: Value, j: int, level: Level, depths: tuple[int, ...], time: Value, text: Value
) -> Value:
    """The ``j``-th resnet of a level, and the attention after it where the level has ``depths``."""
    x = _resnet(ops, net, x, j, level, time)
    return _attention(ops, net, x, j, level, depths[j], text, level.only_cross) if depths else x


def _resnet(ops: Ops, net: Trunk, x: Value, j: int, level: Level, time: Value, factor: float = 1.0) -> Value:
    return resnet(ops, x, f"resnets.{j}", level.channels, net.groups, net.eps, time, factor, net.scale_shift)


def _attention(
    ops: Ops, net: Trunk, x: Value, j: int, level: Level, depth: int, text: Value, only_cross: bool
) -> Value:
    name, linear = f"attentions.{j}", net.linear_projection
    return transformer(ops, x, name, depth, level.heads, net.groups, text, linear, only_cross)
