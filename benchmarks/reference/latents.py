"""The latent space, fixed before anything is trained: scaled principal components of 8x8 patches.

Learned autoencoders of this size take most of a training budget to leave the plateau where latents are
ignored. Sixteen principal components of 8x8x3 patches already give 25.6 dB by their linear inverse alone,
cost one stride-8 convolution, and let decoder, encoder and denoiser be trained side by side, each directly
supervised. Components are divided by the square root of their deviation (half of a whitening): coarse ones
keep more weight, since full whitening blows details up that no denoiser of this size predicts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = 16
PATCH = 8


class Latents:
    """An orthonormal basis of patches with its scale; ``encode`` and ``decode`` are linear."""

    def __init__(self, pictures: Tensor) -> None:
        """``pictures``: (N, 3, H, W) in [-1, 1], enough of them to estimate 192x192 covariances."""
        patches = pictures.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
        rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH * PATCH).double()
        self.mean = rows.mean(0).float()
        centred = rows - rows.mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
        values, vectors = values[-CHANNELS:].flip(0), vectors[:, -CHANNELS:].flip(1)
        vectors = vectors * vectors.sum(0).sign()  # the sign of an eigenvector is arbitrary; fix it
        scale = values**0.25
        scale = scale * ((values / scale**2).mean() ** 0.5)  # unit variance on average
        self.deviations = (values.sqrt() / scale).float()
        self.into = (vectors / scale).T.reshape(CHANNELS, 3, PATCH, PATCH).float()
        self.back = (vectors * scale).T.reshape(CHANNELS, 3, PATCH, PATCH).float()

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) to latents (N, 16, H/8, W/8)."""
        bias = -(self.into.flatten(1) @ self.mean)
        return F.conv2d(x, self.into, bias, stride=PATCH)

    def decode(self, z: Tensor) -> Tensor:
        """Latents to pictures by the linear inverse: what a decoder has to beat."""
        x = F.conv_transpose2d(z, self.back, stride=PATCH)
        tile = self.mean.reshape(3, PATCH, PATCH).repeat(1, z.shape[2], z.shape[3])
        return x + tile
