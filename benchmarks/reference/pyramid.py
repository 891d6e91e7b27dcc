"""The latent space: a linear pyramid, fitted in minutes and then written into an AutoencoderKL.

An AutoencoderKL has a linear path inside: its resolution-changing convolutions. With the second convolution of
every block at zero the blocks are identities; two constant channels make the last normalisation a fixed
scale; and ``silu(x) - silu(-x) = x``. So the best linear pyramid of that form can be fitted first (a
hundredth of the arithmetic) and the autoencoder starts from it exactly: the encoder is then finished, latents
cost next to nothing, and the decoder has only the rest to learn.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from benchmarks.reference.nets import LATENT_CHANNELS

INTO = (3, 16, 16, 32, 16)  # channels: picture, at 64, 32, 16, 8 pixels
BACK = (32, 32, 24, 4)  # channels at 8, 16, 32, 64 pixels
CONSTANT = 8.0


class Pyramid(nn.Module):
    """Three halvings to 16 channels, three doublings back, each a 3x3 convolution without activation."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.ModuleList(nn.Conv2d(a, b, 3) for a, b in zip(INTO[:-1], INTO[1:], strict=True))
        self.code = nn.Conv2d(INTO[-1], LATENT_CHANNELS, 3, padding=1)
        self.open = nn.Conv2d(LATENT_CHANNELS, BACK[0], 3, padding=1)
        self.back = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(BACK[:-1], BACK[1:], strict=True)
        )
        self.close = nn.Conv2d(BACK[-1], 3, 3, padding=1)
        self.mean: Tensor
        self.inverse: Tensor
        self.register_buffer("mean", torch.zeros(LATENT_CHANNELS))
        self.register_buffer("inverse", torch.eye(LATENT_CHANNELS))

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] to latents (N, 16, H/8, W/8)."""
        x = F.conv2d(x, self.into[0].weight, self.into[0].bias, padding=1)
        for conv in list(self.into)[1:]:
            x = F.conv2d(F.pad(x, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2)
        return self.code(x)

    def decode(self, z: Tensor) -> Tensor:
        """Latents to pictures."""
        x = self.open(z)
        for conv in self.back:
            x = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.close(x)

    @torch.no_grad()
    def rotate(self, pictures: Tensor) -> Tensor:
        """Turn the latents to their principal axes, divided by the square root of their deviation (half of a
        whitening: coarse axes keep more weight), with mean 0 and unit variance on average. Exact: the decoder
        is given the inverse. Returns the deviations."""
        z = self.encode(pictures).permute(0, 2, 3, 1).reshape(-1, LATENT_CHANNELS).double()
        mean = z.mean(0)
        values, axes = torch.linalg.eigh((z - mean).T @ (z - mean) / len(z))
        values, axes = values.flip(0), axes.flip(1)
        axes = axes * axes[axes.abs().argmax(0), torch.arange(LATENT_CHANNELS)].sign()
        scale = values**0.25
        scale = scale * (values / scale**2).mean().sqrt()
        forward, inverse = (axes / scale).T, axes * scale
        code = self.code
        code.weight.copy_(torch.einsum("ij,jkhw->ikhw", forward, code.weight.double()))
        code.bias.copy_(forward @ (code.bias.double() - mean))
        # Not folded into ``open``: its padding of zeros would no longer mean the same. post_quant_conv takes it.
        self.mean, self.inverse = mean.float(), inverse.float()
        return (values.sqrt() / scale).float()

    def restore(self, z: Tensor) -> Tensor:
        """Rotated latents to pictures: ``decode`` behind the inverse rotation."""
        return self.decode(torch.einsum("ij,njhw->nihw", self.inverse, z) + self.mean[:, None, None])


def fit(pictures: object, seconds: float, lr: float = 4e-3, batch: int = 32) -> Pyramid:
    """Fit a pyramid to pictures drawn by ``pictures(step, n) -> (N, 3, H, W)`` for a time."""
    torch.manual_seed(0)
    net = Pyramid().to(memory_format=torch.channels_last)
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.orthogonal_(conv.weight)
            nn.init.zeros_(conv.bias)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    step, began, told, errors = 0, time.time(), time.time(), []
    while (spent := time.time() - began) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * max(0.01, 1 - spent / seconds)
        x = pictures(step, batch)  # type: ignore[operator]
        loss = (net.decode(net.encode(x)) - x).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        errors.append(loss.detach())
        if time.time() - told > 10:
            told = time.time()
            print(
                f"{spent:4.0f} s  step {step}  {-10 * torch.stack(errors).mean().div(4).log10():.2f} dB",
                flush=True,
            )
            errors = []
    return net


@torch.no_grad()
def install(net: Pyramid, vae: AutoencoderKL) -> None:
    """Write a pyramid into an autoencoder, whose output is then the pyramid's."""
    for block in vae.modules():
        if hasattr(block, "conv2") and hasattr(block, "norm2"):
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
            if block.conv_shortcut is not None:
                _embed(block.conv_shortcut, torch.eye(block.conv_shortcut.in_channels)[:, :, None, None])
    encoder, decoder = vae.encoder, vae.decoder
    _embed(encoder.conv_in, net.into[0].weight, net.into[0].bias)
    for block, conv in zip(encoder.down_blocks[:3], list(net.into)[1:], strict=True):
        _embed(block.downsamplers[0].conv, conv.weight, conv.bias)
    last = encoder.down_blocks[2].downsamplers[0].conv
    small = 1 / 64  # features far smaller than the constants: then the constants alone decide the deviation
    weight, bias = net.into[-1].weight * small, net.into[-1].bias * small
    lanes = _paired(last, weight, bias, vae.config.norm_num_groups)
    _linear_norm(encoder.conv_norm_out, lanes)
    _from_pairs(encoder.conv_out, net.code.weight / small, net.code.bias, lanes)
    _embed(vae.quant_conv, torch.eye(LATENT_CHANNELS)[:, :, None, None])
    vae.quant_conv.bias[LATENT_CHANNELS:] = -8.0  # the posterior's log variance: nearly a point
    _embed(vae.post_quant_conv, net.inverse[:, :, None, None], net.mean)
    _embed(decoder.conv_in, net.open.weight, net.open.bias)
    for block, conv in zip(decoder.up_blocks[:3], net.back, strict=True):
        _embed(block.upsamplers[0].conv, conv.weight, conv.bias)
    first, second = decoder.up_blocks[3].resnets
    lanes = _paired(
        first.conv_shortcut, torch.eye(BACK[-1])[:, :, None, None], None, vae.config.norm_num_groups
    )
    _linear_norm(second.norm1, lanes)
    _linear_norm(decoder.conv_norm_out, lanes)
    _from_pairs(decoder.conv_out, net.close.weight, net.close.bias, lanes)


def _embed(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None = None) -> None:
    """A smaller convolution inside a larger one; the channels left over give zero."""
    conv.weight.zero_()
    conv.bias.zero_()
    rows, columns = min(weight.shape[0], conv.out_channels), min(weight.shape[1], conv.in_channels)
    conv.weight[:rows, :columns] = weight[:rows, :columns]
    if bias is not None:
        conv.bias[:rows] = bias


def _paired(
    conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, groups: int
) -> list[tuple[int, int, int, int]]:
    """Give every feature as itself and as its negative, and every group of channels two constants."""
    conv.weight.zero_()
    conv.bias.zero_()
    features, width = weight.shape[0], conv.out_channels // groups
    pairs = -(-features // groups)
    if 2 * pairs + 2 > width:
        raise ValueError(f"{features} features need more than {groups} groups of {width} channels")
    lanes = []
    for i in range(features):
        group, place = divmod(i, pairs)
        plus = group * width + 2 * place
        for channel, sign in ((plus, 1.0), (plus + 1, -1.0)):
            conv.weight[channel, : weight.shape[1]] = sign * weight[i]
            conv.bias[channel] = 0.0 if bias is None else sign * bias[i]
        lanes.append((plus, plus + 1, group, width))
    for group in range(groups):
        end = (group + 1) * width
        conv.bias[end - 2], conv.bias[end - 1] = CONSTANT, -CONSTANT
    return lanes


def _linear_norm(norm: nn.GroupNorm, lanes: list[tuple[int, int, int, int]]) -> None:
    """Undo the division by the group's deviation, which the two constants decide."""
    width = lanes[0][3]
    norm.weight.zero_()
    norm.bias.zero_()
    for plus, minus, _, _ in lanes:
        norm.weight[plus] = norm.weight[minus] = CONSTANT * (2 / width) ** 0.5


def _from_pairs(
    conv: nn.Conv2d, weight: Tensor, bias: Tensor, lanes: list[tuple[int, int, int, int]]
) -> None:
    """``silu(x) - silu(-x) = x``, then the convolution."""
    conv.weight.zero_()
    conv.bias.zero_()
    rows = weight.shape[0]
    for i, (plus, minus, _, _) in enumerate(lanes):
        conv.weight[:rows, plus] = weight[:, i]
        conv.weight[:rows, minus] = -weight[:, i]
    conv.bias[:rows] = bias
