"""The conditional U-Net of Stable Diffusion (Rombach et al. 2022), as diffusers' UNet2DConditionModel.

It covers versions 1 and 2, SDXL (Podell et al. 2023) and its refiner, what was distilled from them (levels
without attention, lists of depths, no middle), inpainting, instructed editing and the x4 upscaler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgediff.export.emit.graph import Graph, Kind, Value
from edgediff.export.emit.ops import Ops
from edgediff.export.networks import conditions, unet_trunk
from edgediff.export.networks.conditions import Added, ClassLabels, Conditions
from edgediff.export.networks.settings import Settings
from edgediff.export.networks.unet_trunk import Level, Trunk

_UP = ("CrossAttnUpBlock2D", "UpBlock2D")
# Read by block types that are refused by name.
_WITHOUT_EFFECT = ("mid_block_only_cross_attention", "resnet_out_scale_factor", "resnet_skip_time_act")
MIDDLE_RESIDUAL = "mid_block_additional_residual"


@dataclass(frozen=True, slots=True)
class UNet2DCondition:
    """What the configuration says, in the network's terms."""

    in_channels: int
    out_channels: int
    trunk: Trunk
    conditions: Conditions
    center: bool
    kernel_in: int
    kernel_out: int

    @property
    def levels(self) -> tuple[Level, ...]:
        """The resolutions, from the finest to the coarsest."""
        return self.trunk.levels

    @property
    def context(self) -> int:
        """Channels of ``encoder_hidden_states``."""
        return self.trunk.context

    @property
    def guidance_channels(self) -> int | None:
        """Channels of ``timestep_cond``, if the network reads it."""
        return self.conditions.guidance_channels

    @property
    def added(self) -> Added | None:
        """The inputs ``text_embeds`` and ``time_ids``, if the network reads them."""
        return self.conditions.added

    @property
    def class_labels(self) -> ClassLabels | None:
        """The input ``class_labels``, if the network reads it."""
        return self.conditions.class_labels


def configure(config: Mapping[str, Any], where: str) -> UNet2DCondition:
    """Read ``unet/config.json``. Missing keys have diffusers' defaults.

    A switch that is not covered raises UnsupportedError with its name, an impossible value SourceError.
    """
    s = Settings(config, where)
    count = len(s.integers("block_out_channels", (320, 640, 1280, 1280)))
    up = s.words("up_block_types", (_UP[1], *[_UP[0]] * 3), _UP, count)
    trunk = unet_trunk.configure(s, where, tuple(each == _UP[0] for each in up))
    net = UNet2DCondition(
        in_channels=s.integer("in_channels", 4),
        out_channels=s.integer("out_channels", 4),
        trunk=trunk,
        conditions=conditions.configure(s, where, trunk.levels[0].channels),
        center=s.flag("center_input_sample", False),
        kernel_in=s.choice("conv_in_kernel", 3, [1, 3, 5, 7]),
        kernel_out=s.choice("conv_out_kernel", 3, [1, 3, 5, 7]),
    )
    s.ignored(*_WITHOUT_EFFECT)
    s.finish()
    return net


def record(net: UNet2DCondition, ids: int = 6, controlled: bool = False) -> Graph:
    """The prediction: ``sample``, ``timestep``, ``encoder_hidden_states`` -> ``out_sample``.

    A network with added conditions reads ``ids`` numbers about the picture (SDXL 6, its refiner 5).
    ``controlled`` adds an input per skip connection and one for the middle, which are added to them: the
    residuals of a ControlNet (Zhang et al. 2023).
    """
    ops = Ops("unet")
    sample = ops.input("sample", Kind.IMAGE, net.in_channels, "height", "width")
    timestep = ops.input("timestep", Kind.TIME)
    text = ops.input("encoder_hidden_states", Kind.TOKENS, net.context, "sequence_length")
    time = conditions.record(ops, net.conditions, timestep, ids)
    x = ops.affine(sample, 2.0, -1.0) if net.center else sample
    x = ops.conv(x, "conv_in", net.levels[0].channels, net.kernel_in)
    skips = unet_trunk.record_down(ops, net.trunk, x, time, text)
    x = unet_trunk.record_middle(ops, net.trunk, skips[-1], time, text)
    if controlled:
        residuals = _residual_inputs(ops, net)
        skips = [ops.add(skip, residual) for skip, residual in zip(skips, residuals[:-1], strict=True)]
        x = ops.add(x, residuals[-1])
    x = _up(ops, net, x, skips, time, text)
    x = ops.silu(ops.group_norm(x, "conv_norm_out", net.trunk.groups, net.trunk.eps))
    ops.output("out_sample", ops.conv(x, "conv_out", net.out_channels, net.kernel_out), "height", "width")
    return ops.graph()


def residual_extents(net: UNet2DCondition, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Height and width of every residual input, by name, for latents of ``size``."""
    grids = [size]
    rounding = 0 if net.trunk.asymmetric else 1
    for _ in net.levels[1:]:
        height, width = grids[-1]
        grids.append(((height + rounding) // 2, (width + rounding) // 2))
    names = [*(f"down_block_additional_residuals.{i}" for i in range(len(net.trunk.skips))), MIDDLE_RESIDUAL]
    halvings = [*(halvings for _, halvings in net.trunk.skips), len(net.levels) - 1]
    return {name: grids[count] for name, count in zip(names, halvings, strict=True)}


def _residual_inputs(ops: Ops, net: UNet2DCondition) -> list[Value]:
    places = [*net.trunk.skips, (net.levels[-1].channels, len(net.levels) - 1)]
    names = residual_extents(net, (1, 1))
    return [
        ops.input(name, Kind.IMAGE, channels, *unet_trunk.extents(halvings))
        for name, (channels, halvings) in zip(names, places, strict=True)
    ]


def _up(ops: Ops, net: UNet2DCondition, x: Value, skips: list[Value], time: Value, text: Value) -> Value:
    for i, level in enumerate(reversed(net.levels)):
        with ops.scope(f"up_blocks.{i}"):
            for j in range(level.layers + 1):
                x = ops.concat(x, skips.pop())
                x = unet_trunk.layer(ops, net.trunk, x, j, level, level.up, time, text)
            if skips:
                x = ops.conv(ops.upsample_like(x, skips[-1]), "upsamplers.0.conv", level.channels)
    return x
