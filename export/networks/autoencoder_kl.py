"""The autoencoder of latent diffusion (Rombach et al. 2022), as diffusers' AutoencoderKL: two graphs.

The latents' scale and shift are not part of the graphs: the manifest has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgediff.export.emit.graph import Graph, Kind, Value
from edgediff.export.emit.ops import Ops
from edgediff.export.networks.blocks import attend, resnet
from edgediff.export.networks.settings import Settings

_EPS = 1e-6
_FIXED: dict[str, Any] = {"latents_mean": None, "latents_std": None}


@dataclass(frozen=True, slots=True)
class AutoencoderKL:
    """What the configuration says, in the network's terms; ``widths`` from the finest level on."""

    in_channels: int
    out_channels: int
    latent_channels: int
    widths: tuple[int, ...]
    layers: int
    groups: int
    attends: bool
    quant_conv: bool
    post_quant_conv: bool
    scaling_factor: float
    shift_factor: float
    sample_size: int

    @property
    def downscale(self) -> int:
        """Pixels per latent, along each side."""
        return 1 << (len(self.widths) - 1)


def configure(config: Mapping[str, Any], where: str) -> AutoencoderKL:
    """Read ``vae/config.json``. Missing keys have diffusers' defaults."""
    s = Settings(config, where)
    widths = s.integers("block_out_channels", (64,))
    s.words("down_block_types", ("DownEncoderBlock2D",), ("DownEncoderBlock2D",), len(widths))
    s.words("up_block_types", ("UpDecoderBlock2D",), ("UpDecoderBlock2D",), len(widths))
    s.choice("act_fn", "silu", ["silu", "swish"])
    shift = config.get("shift_factor")
    shape = AutoencoderKL(
        in_channels=s.integer("in_channels", 3),
        out_channels=s.integer("out_channels", 3),
        latent_channels=s.integer("latent_channels", 4),
        widths=widths,
        layers=s.integer("layers_per_block", 1),
        groups=s.integer("norm_num_groups", 32),
        attends=s.flag("mid_block_add_attention", True),
        quant_conv=s.flag("use_quant_conv", True),
        post_quant_conv=s.flag("use_post_quant_conv", True),
        scaling_factor=s.positive("scaling_factor", 0.18215),
        shift_factor=0.0 if shift is None else s.number("shift_factor", 0.0),
        sample_size=s.integer("sample_size", 32),
    )
    s.fixed(_FIXED)
    s.ignored("shift_factor", "force_upcast", "dropout")
    s.finish()
    return shape


def record_decoder(net: AutoencoderKL) -> Graph:
    """``latent_sample`` -> ``sample`` in -1 to 1."""
    ops = Ops("vae_decoder")
    x = ops.input("latent_sample", Kind.IMAGE, net.latent_channels, "latent_height", "latent_width")
    if net.post_quant_conv:
        x = ops.conv(x, "post_quant_conv", net.latent_channels, kernel=1)
    with ops.scope("decoder"):
        x = _middle(ops, net, ops.conv(x, "conv_in", net.widths[-1]))
        for i, width in enumerate(reversed(net.widths)):
            with ops.scope(f"up_blocks.{i}"):
                for j in range(net.layers + 1):
                    x = resnet(ops, x, f"resnets.{j}", width, net.groups, _EPS, None)
                if i < len(net.widths) - 1:
                    x = ops.conv(ops.upsample(x), "upsamplers.0.conv", width)
        x = _head(ops, net, x, net.out_channels)
    ops.output("sample", x, "height", "width")
    return ops.graph()


def record_encoder(net: AutoencoderKL) -> Graph:
    """``sample`` -> ``latent_parameters``: the posterior's mean, then its log-variance."""
    ops = Ops("vae_encoder")
    x = ops.input("sample", Kind.IMAGE, net.in_channels, "height", "width")
    with ops.scope("encoder"):
        x = ops.conv(x, "conv_in", net.widths[0])
        for i, width in enumerate(net.widths):
            with ops.scope(f"down_blocks.{i}"):
                for j in range(net.layers):
                    x = resnet(ops, x, f"resnets.{j}", width, net.groups, _EPS, None)
                if i < len(net.widths) - 1:
                    x = ops.downsample(x, "downsamplers.0.conv", width, asymmetric=True)
        x = _head(ops, net, _middle(ops, net, x), 2 * net.latent_channels)
    if net.quant_conv:
        x = ops.conv(x, "quant_conv", 2 * net.latent_channels, kernel=1)
    ops.output("latent_parameters", x, "latent_height", "latent_width")
    return ops.graph()


def _middle(ops: Ops, net: AutoencoderKL, x: Value) -> Value:
    with ops.scope("mid_block"):
        x = resnet(ops, x, "resnets.0", x.channels, net.groups, _EPS, None)
        if net.attends:
            with ops.scope("attentions.0"):
                tokens = ops.to_tokens(ops.group_norm(x, "group_norm", net.groups, _EPS))
                x = ops.add(x, ops.to_image(attend(ops, tokens, "", 1, bias=True), x))
        return resnet(ops, x, "resnets.1", x.channels, net.groups, _EPS, None)


def _head(ops: Ops, net: AutoencoderKL, x: Value, channels: int) -> Value:
    x = ops.silu(ops.group_norm(x, "conv_norm_out", net.groups, _EPS))
    return ops.conv(x, "conv_out", channels)
