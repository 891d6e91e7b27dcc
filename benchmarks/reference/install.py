"""A linear pyramid written into an AutoencoderKL, whose output is then the pyramid's, and read out again.

With the second convolution of every block at zero the blocks are identities; two constant channels make a
normalisation a fixed scale; and ``silu(x) - silu(-x) = x``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from benchmarks.reference.nets import LATENT_CHANNELS
from benchmarks.reference.pyramid import BACK, INTO, Pyramid

CONSTANT = 8.0
SMALL = 1 / 64  # the encoder's features beside the constants, which alone decide the deviation then


@dataclass(frozen=True, slots=True)
class Lane:
    """Where a feature and its negative lie, in groups of how many channels."""

    plus: int
    minus: int
    width: int


@torch.no_grad()
def install(net: Pyramid, vae: AutoencoderKL) -> None:
    """Write a pyramid into an autoencoder."""
    groups = vae.config.norm_num_groups
    still(vae)
    encoder, decoder = vae.encoder, vae.decoder
    _embed(encoder.conv_in, net.into[0].weight, net.into[0].bias)
    for conv, given in zip(_halvings(vae), list(net.into)[1:], strict=True):
        _embed(conv, given.weight, given.bias)
    last = net.into[-1]
    lanes = _paired(_halvings(vae)[-1], last.weight * SMALL, last.bias * SMALL, groups)
    _linear_norm(encoder.conv_norm_out, lanes)
    _from_pairs(encoder.conv_out, net.code.weight / SMALL, net.code.bias, lanes)
    _embed(vae.quant_conv, _identity(LATENT_CHANNELS))
    vae.quant_conv.bias[LATENT_CHANNELS:] = -8.0  # the posterior's log variance: nearly a point
    _embed(vae.post_quant_conv, net.inverse[:, :, None, None], net.mean)
    _embed(decoder.conv_in, net.open.weight, net.open.bias)
    for block, given in zip(decoder.up_blocks[:3], net.back, strict=True):
        _embed(block.upsamplers[0].conv, given.weight, given.bias)
    first, second = decoder.up_blocks[3].resnets
    lanes = _paired(first.conv_shortcut, _identity(BACK[-1]), torch.zeros(BACK[-1]), groups)
    _linear_norm(second.norm1, lanes)
    _linear_norm(decoder.conv_norm_out, lanes)
    _from_pairs(decoder.conv_out, net.close.weight, net.close.bias, lanes)


@torch.no_grad()
def still(net: nn.Module) -> None:
    """Make every residual block an identity."""
    for block in net.modules():
        if hasattr(block, "conv2") and hasattr(block, "norm2"):
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
            if block.conv_shortcut is not None:
                _embed(block.conv_shortcut, _identity(block.conv_shortcut.in_channels))


@torch.no_grad()
def encoder_of(vae: AutoencoderKL) -> Pyramid:
    """The pyramid whose ``encode`` is the encoder of an autoencoder that ``install`` wrote; no more of it."""
    net = Pyramid()
    for given, conv in zip(net.into, [vae.encoder.conv_in, *_halvings(vae)], strict=True):
        rows, columns = given.weight.shape[:2]
        given.weight.copy_(conv.weight[:rows, :columns])
        given.bias.copy_(conv.bias[:rows])
    last, taken = net.into[-1], _halvings(vae)[-1]
    lanes = _lanes(INTO[-1], taken.out_channels, vae.config.norm_num_groups)
    for i, lane in enumerate(lanes):
        last.weight[i] = taken.weight[lane.plus, : INTO[-2]] / SMALL
        last.bias[i] = taken.bias[lane.plus] / SMALL
        net.code.weight[:, i] = vae.encoder.conv_out.weight[:LATENT_CHANNELS, lane.plus] * SMALL
    net.code.bias.copy_(vae.encoder.conv_out.bias[:LATENT_CHANNELS])
    return net


def _halvings(vae: AutoencoderKL) -> list[nn.Conv2d]:
    return [block.downsamplers[0].conv for block in vae.encoder.down_blocks[:3]]


def _identity(channels: int) -> Tensor:
    return torch.eye(channels)[:, :, None, None]


def _embed(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None = None) -> None:
    """A smaller convolution inside a larger one; the channels left over give zero."""
    _clear(conv)
    rows, columns = min(weight.shape[0], conv.out_channels), min(weight.shape[1], conv.in_channels)
    conv.weight[:rows, :columns] = weight[:rows, :columns]
    if bias is not None:
        conv.bias[:rows] = bias


def _clear(layer: nn.Module) -> None:
    layer.weight.zero_()
    layer.bias.zero_()


def _lanes(features: int, channels: int, groups: int) -> list[Lane]:
    """A pair of channels for every feature, spread over the groups; the last two of a group are constants."""
    width, pairs = channels // groups, -(-features // groups)
    if 2 * pairs + 2 > width:
        raise ValueError(f"{features} features need more than {groups} groups of {width} channels")
    starts = [group * width + 2 * place for group, place in (divmod(i, pairs) for i in range(features))]
    return [Lane(start, start + 1, width) for start in starts]


def _paired(conv: nn.Conv2d, weight: Tensor, bias: Tensor, groups: int) -> list[Lane]:
    """Give every feature as itself and as its negative, and every group of channels two constants."""
    _clear(conv)
    lanes = _lanes(weight.shape[0], conv.out_channels, groups)
    for i, lane in enumerate(lanes):
        for channel, sign in ((lane.plus, 1.0), (lane.minus, -1.0)):
            conv.weight[channel, : weight.shape[1]] = sign * weight[i]
            conv.bias[channel] = sign * bias[i]
    width = conv.out_channels // groups
    conv.bias[width - 2 :: width], conv.bias[width - 1 :: width] = CONSTANT, -CONSTANT
    return lanes


def _linear_norm(norm: nn.GroupNorm, lanes: list[Lane]) -> None:
    """Undo the division by the group's deviation, which the two constants decide."""
    _clear(norm)
    for lane in lanes:
        norm.weight[lane.plus] = norm.weight[lane.minus] = CONSTANT * (2 / lane.width) ** 0.5


def _from_pairs(conv: nn.Conv2d, weight: Tensor, bias: Tensor, lanes: list[Lane]) -> None:
    """``silu(x) - silu(-x) = x``, then the convolution."""
    _clear(conv)
    rows = weight.shape[0]
    for i, lane in enumerate(lanes):
        conv.weight[:rows, lane.plus] = weight[:, i]
        conv.weight[:rows, lane.minus] = -weight[:, i]
    conv.bias[:rows] = bias
