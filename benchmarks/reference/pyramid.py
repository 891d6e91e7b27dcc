"""The latent space: a linear pyramid, fitted in minutes.

An AutoencoderKL has a linear path inside: its resolution-changing convolutions. The best pyramid of that form
is fitted first, at a hundredth of the arithmetic, and ``install`` writes it into an AutoencoderKL, which then
starts from it exactly: the encoder is finished, latents cost next to nothing, and the decoder has only the
rest to learn.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference import loop, optimise
from benchmarks.reference.nets import LATENT_CHANNELS

INTO = (3, 16, 16, 32, 16)  # channels: picture, then at full size, a half, a quarter, an eighth of it
BACK = (32, 32, 24, 4)  # channels at an eighth, a quarter, a half, full size


class Pyramid(nn.Module):
    """Three halvings to 16 channels, three doublings back, each a 3x3 convolution without activation."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.ModuleList(nn.Conv2d(a, b, 3) for a, b in pairwise(INTO))
        self.code = nn.Conv2d(INTO[-1], LATENT_CHANNELS, 3, padding=1)
        self.open = nn.Conv2d(LATENT_CHANNELS, BACK[0], 3, padding=1)
        self.back = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(BACK))
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
        """Latents to pictures, as long as the latents are not rotated."""
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
        # For post_quant_conv, not folded into ``open``, whose padding of zeros would change its meaning.
        self.mean, self.inverse = mean.float(), inverse.float()
        return (values.sqrt() / scale).float()

    def restore(self, z: Tensor) -> Tensor:
        """Rotated latents to pictures: ``decode`` behind the inverse rotation."""
        return self.decode(torch.einsum("ij,njhw->nihw", self.inverse, z) + self.mean[:, None, None])


def fit(
    pictures: Callable[[int], Tensor], path: Path, budget: loop.Budget, batch: int, save_every: float = 30.0
) -> Pyramid:
    """Fit a pyramid to the pictures of each step."""
    torch.manual_seed(0)
    net = Pyramid()
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.orthogonal_(conv.weight)
            nn.init.zeros_(conv.bias)
    net = net.to(memory_format=torch.channels_last)
    optimizer = optimise.adam(net, beta=0.98)

    def step(i: int, share: float) -> dict[str, Tensor]:
        x = pictures(i)
        loss = (net.decode(net.encode(x)) - x).square().mean()
        optimise.descend(loss, (optimizer, 4e-3 * optimise.linear(i, share, 50, 1.0)), clip=0.5)
        return {"dB": -10 * (loss.detach() / 4).log10()}

    loop.run(path, {"net": net, "optimizer": optimizer}, budget, step, batch, save_every)
    return net
