"""ControlNet (Zhang et al. 2023), as diffusers' ControlNetModel: a picture steers a U-Net's way down."""

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

_FIXED: dict[str, Any] = {"global_pool_conditions": False}


@dataclass(frozen=True, slots=True)
class ControlNet:
    """What the configuration says, in the network's terms; ``widths`` of the layers that read the picture."""

    in_channels: int
    condition_channels: int
    widths: tuple[int, ...]
    blue_first: bool
    trunk: Trunk
    conditions: Conditions

    @property
    def levels(self) -> tuple[Level, ...]:
        """The resolutions, from the finest to the coarsest."""
        return self.trunk.levels

    @property
    def context(self) -> int:
        """Channels of ``encoder_hidden_states``."""
        return self.trunk.context

    @property
    def grid(self) -> int:
        """A latent side that every level halves without rounding."""
        return 1 << len(self.levels)

    @property
    def downscale(self) -> int:
        """Pixels of the picture per latent, along each side."""
        return 1 << (len(self.widths) - 1)

    @property
    def added(self) -> Added | None:
        """The inputs ``text_embeds`` and ``time_ids``, if the network reads them."""
        return self.conditions.added

    @property
    def class_labels(self) -> ClassLabels | None:
        """The input ``class_labels``, if the network reads it."""
        return self.conditions.class_labels


def configure(config: Mapping[str, Any], where: str) -> ControlNet:
    """Read ``controlnet/config.json``. Missing keys have diffusers' defaults.

    A switch that is not covered raises UnsupportedError with its name, an impossible value SourceError.
    """
    s = Settings(config, where)
    trunk = unet_trunk.configure(s, where, control=True)
    order = s.choice("controlnet_conditioning_channel_order", "rgb", ["rgb", "bgr"])
    net = ControlNet(
        in_channels=s.integer("in_channels", 4),
        condition_channels=s.integer("conditioning_channels", 3),
        widths=s.integers("conditioning_embedding_out_channels", (16, 32, 96, 256)),
        blue_first=order == "bgr",
        trunk=trunk,
        conditions=conditions.configure(s, where, trunk.levels[0].channels, control=True),
    )
    s.fixed(_FIXED)
    s.finish()
    return net


def record(net: ControlNet, ids: int = 6) -> Graph:
    """``sample``, ``timestep``, ``encoder_hidden_states``, ``controlnet_cond`` -> residuals of a U-Net.

    ``controlnet_cond`` is a picture of ``downscale`` times the latents' size, 0 to 1. The outputs
    ``down_block_res_samples.0`` and on, and ``mid_block_res_sample``, are times ``conditioning_scale``.
    """
    ops = Ops("controlnet")
    sample = ops.input("sample", Kind.IMAGE, net.in_channels, "height", "width")
    timestep = ops.input("timestep", Kind.TIME)
    text = ops.input("encoder_hidden_states", Kind.TOKENS, net.context, "sequence_length")
    picture = ops.input(
        "controlnet_cond", Kind.IMAGE, net.condition_channels, "picture_height", "picture_width"
    )
    strength = ops.input("conditioning_scale", Kind.TIME)
    time = conditions.record(ops, net.conditions, timestep, ids)
    x = ops.add(ops.conv(sample, "conv_in", net.levels[0].channels), _look(ops, net, picture))
    skips = unet_trunk.record_down(ops, net.trunk, x, time, text)
    x = unet_trunk.record_middle(ops, net.trunk, skips[-1], time, text)
    for i, (skip, (channels, halvings)) in enumerate(zip(skips, net.trunk.skips, strict=True)):
        residual = ops.scale(ops.conv(skip, f"controlnet_down_blocks.{i}", channels, kernel=1), strength)
        ops.output(f"down_block_res_samples.{i}", residual, *unet_trunk.extents(halvings))
    middle = ops.scale(ops.conv(x, "controlnet_mid_block", x.channels, kernel=1), strength)
    ops.output("mid_block_res_sample", middle, *unet_trunk.extents(len(net.levels) - 1))
    return ops.graph()


def _look(ops: Ops, net: ControlNet, picture: Value) -> Value:
    """ControlNetConditioningEmbedding: from the picture to the latents' grid and the first level's width."""
    x = ops.reverse(picture) if net.blue_first else picture
    with ops.scope("controlnet_cond_embedding"):
        x = ops.silu(ops.conv(x, "conv_in", net.widths[0]))
        for i, (width, after) in enumerate(zip(net.widths, net.widths[1:], strict=False)):
            x = ops.silu(ops.conv(x, f"blocks.{2 * i}", width))
            x = ops.silu(ops.downsample(x, f"blocks.{2 * i + 1}", after))
        return ops.conv(x, "conv_out", net.levels[0].channels)
