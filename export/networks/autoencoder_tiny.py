"""The tiny autoencoder TAESD (O. Boer Bohan, 2023), as diffusers' AutoencoderTiny: two graphs.

It is for previews and small devices, and reads and writes the latents of the model that it was distilled for.
Its encoder gives latents outright, without a distribution to draw from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgediff.errors import SourceError
from edgediff.export.emit.graph import Graph, Kind, Value
from edgediff.export.emit.ops import Ops
from edgediff.export.networks.blocks import ACTIVATIONS, activate
from edgediff.export.networks.settings import Settings

_FIXED: dict[str, Any] = {"upsample_fn": "nearest", "upsampling_scaling_factor": 2}
# For storing latents as bytes, which the networks do not do; the rest repeats other keys.
_WITHOUT_EFFECT = ("block_out_channels", "force_upcast", "latent_magnitude", "latent_shift")
# The decoder takes latents of any size and bends what lies beyond this.
_BOUND = 3.0


@dataclass(frozen=True, slots=True)
class AutoencoderTiny:
    """What the configuration says, in the network's terms; counts of blocks in the order of the graph."""

    in_channels: int
    out_channels: int
    latent_channels: int
    encoder_width: int
    decoder_width: int
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    activation: str
    scaling_factor: float
    shift_factor: float

    @property
    def downscale(self) -> int:
        """Pixels per latent, along each side."""
        return 1 << (len(self.decoder_blocks) - 1)


def configure(config: Mapping[str, Any], where: str) -> AutoencoderTiny:
    """Read ``vae/config.json``. Missing keys have diffusers' defaults.

    A switch that is not covered raises UnsupportedError with its name, an impossible value SourceError.
    """
    s = Settings(config, where)
    encoder_blocks = s.integers("num_encoder_blocks", (1, 3, 3, 3))
    decoder_blocks = s.integers("num_decoder_blocks", (3, 3, 3, 1))
    if len(encoder_blocks) != len(decoder_blocks):
        raise SourceError(
            f"{where}: num_encoder_blocks has {len(encoder_blocks)} stages, num_decoder_blocks "
            f"{len(decoder_blocks)}; what one halves the other must double."
        )
    net = AutoencoderTiny(
        in_channels=s.integer("in_channels", 3),
        out_channels=s.integer("out_channels", 3),
        latent_channels=s.integer("latent_channels", 4),
        encoder_width=_width(s, where, "encoder_block_out_channels", len(encoder_blocks)),
        decoder_width=_width(s, where, "decoder_block_out_channels", len(decoder_blocks)),
        encoder_blocks=encoder_blocks,
        decoder_blocks=decoder_blocks,
        activation=s.choice("act_fn", "relu", ACTIVATIONS),
        scaling_factor=s.positive("scaling_factor", 1.0),
        shift_factor=s.number("shift_factor", 0.0),
    )
    s.fixed(_FIXED)
    s.ignored(*_WITHOUT_EFFECT)
    s.finish()
    return net


def _width(s: Settings, where: str, key: str, count: int) -> int:
    widths = s.integers(key, (64,) * count, count)
    if len(set(widths)) > 1:
        raise SourceError(
            f"{where}: {key} is {list(widths)}. The stages of this network follow each other without a layer "
            "that changes the width, so all must be equal."
        )
    return widths[0]


def record_decoder(net: AutoencoderTiny) -> Graph:
    """``latent_sample`` -> ``sample`` in -1 to 1."""
    ops = Ops("vae_decoder")
    x = ops.input("latent_sample", Kind.IMAGE, net.latent_channels, "latent_height", "latent_width")
    x = ops.affine(ops.tanh(ops.affine(x, 1.0 / _BOUND)), _BOUND)
    with ops.scope("decoder"):
        # Layers are numbered through, activations and upsamplings included.
        x = activate(ops, ops.conv(x, "layers.0", net.decoder_width), net.activation)
        at = 2
        for i, count in enumerate(net.decoder_blocks):
            x, at = _blocks(ops, net, x, at, count)
            if i < len(net.decoder_blocks) - 1:
                x = ops.conv(ops.upsample(x), f"layers.{at + 1}", net.decoder_width, bias=False)
                at += 2
        x = ops.conv(x, f"layers.{at}", net.out_channels)
    ops.output("sample", ops.affine(x, 2.0, -1.0), "height", "width")
    return ops.graph()


def record_encoder(net: AutoencoderTiny) -> Graph:
    """``sample`` in -1 to 1 -> ``latents``."""
    ops = Ops("vae_encoder")
    x = ops.affine(ops.input("sample", Kind.IMAGE, net.in_channels, "height", "width"), 0.5, 0.5)
    with ops.scope("encoder"):
        at = 0
        for i, count in enumerate(net.encoder_blocks):
            if i == 0:
                x = ops.conv(x, f"layers.{at}", net.encoder_width)
            else:
                x = ops.downsample(x, f"layers.{at}", net.encoder_width, bias=False)
            x, at = _blocks(ops, net, x, at + 1, count)
        x = ops.conv(x, f"layers.{at}", net.latent_channels)
    ops.output("latents", x, "latent_height", "latent_width")
    return ops.graph()


def _blocks(ops: Ops, net: AutoencoderTiny, x: Value, at: int, count: int) -> tuple[Value, int]:
    """AutoencoderTinyBlocks from layer ``at`` on; the result, and the number of the layer after them."""
    for i in range(at, at + count):
        with ops.scope(f"layers.{i}.conv"):
            h = activate(ops, ops.conv(x, "0", x.channels), net.activation)
            h = activate(ops, ops.conv(h, "2", x.channels), net.activation)
            x = ops.relu(ops.add(ops.conv(h, "4", x.channels), x))
    return x, at + count
