"""The autoencoder: pictures to 8x8x16 latents and back, trained until shapes survive the round trip.

Half of its pictures are crowded with objects, because an empty background teaches nothing. Latents get
noise of fixed deviation on the way to the decoder, which therefore forgives a denoiser's small errors.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.reference import loop, nets
from benchmarks.reference.grammar import BACKGROUNDS, COLOURS, PAIRS, SHAPES, scenes
from benchmarks.reference.render import paint, render

NOISE = 0.15


def crowded(rng: np.random.Generator, n: int, objects: int = 5, size: int = 64) -> NDArray[np.uint8]:
    """Pictures with objects anywhere, overlapping: more outlines for the same arithmetic."""
    grounds = np.array(list(BACKGROUNDS.values()), np.float32)[rng.integers(len(BACKGROUNDS), size=n)]
    canvas = np.repeat(np.repeat(grounds[:, None, None, :], size, 1), size, 2)
    for _ in range(objects):
        pick = rng.integers(len(PAIRS), size=n)
        x, y = rng.uniform(6, 58, (2, n)).astype(np.float32)
        r = rng.uniform(7.5, 13.5, n).astype(np.float32)
        for shape in SHAPES:
            which = np.array([i for i in range(n) if PAIRS[pick[i]][1] == shape], np.int64)
            if len(which):
                colour = np.array([COLOURS[PAIRS[pick[i]][0]] for i in which], np.float32)
                paint(canvas, which, shape, x[which], y[which], r[which], colour)
    return np.round(canvas).astype(np.uint8)


def pictures(step: int, n: int, share: float, size: int = 64) -> NDArray[np.uint8]:
    """One batch: a share of it crowded, the rest as the grammar draws them."""
    rng = np.random.default_rng((7, step))
    many = round(n * share)
    return np.concatenate([crowded(rng, many, size=size), render(scenes(1_000_000 + step, n - many), size)])


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Bytes (N, H, W, 3) to numbers in [-1, 1] (N, 3, H, W), channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(x: Tensor) -> NDArray[np.uint8]:
    """Numbers in [-1, 1] to bytes."""
    pixels: NDArray[np.uint8] = (
        ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    )
    return pixels


def reconstruct(vae: AutoencoderKL, x: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """The picture that comes back, and the latents it went through."""
    mean = vae.quant_conv(vae.encoder(x))[:, : nets.LATENT_CHANNELS]
    there = mean + noise * torch.randn_like(mean) if noise else mean
    return vae.decoder(vae.post_quant_conv(there)), mean


def loss_of(back: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    """Squared and absolute error, heavier at outlines, and a light pull of the latents to zero."""
    across, down = x.diff(dim=3).abs().amax(1, True), x.diff(dim=2).abs().amax(1, True)
    edges = F.max_pool2d(torch.maximum(F.pad(across, (0, 1)), F.pad(down, (0, 0, 0, 1))), 3, 1, 1)
    weight = 1 + 3 * (edges > 0.15).float()
    error = back - x
    slope = (error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()) * 0.5
    fidelity = (weight * (error.square() + 0.5 * error.abs())).mean()
    return fidelity + slope + 2e-4 * mean.square().mean()


def train(
    work: Path, seconds: float, lr: float, batch: int = 8, size: int = 64, device: str = "cpu"
) -> AutoencoderKL:
    """Train for a time, resuming from ``work``; the averaged weights come back."""
    torch.manual_seed(0)
    vae = nets.autoencoder(size).to(device, memory_format=torch.channels_last)
    opts = loop.optimizers([vae], lr, plain=("conv_in", "conv_out"))
    average = loop.Average([vae], 0.999)
    step, spent, path = 0, 0.0, work / "autoencoder.pt"
    if path.exists():
        held = torch.load(path, map_location=device)
        vae.load_state_dict(held["net"])
        for opt, state in zip(opts, held["opts"], strict=True):
            opt.load_state_dict(state)
        average.kept, average.steps = held["kept"], held["step"]
        step, spent = held["step"], held["spent"]

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        back, mean = reconstruct(vae, x, NOISE)
        return loss_of(back, x, mean), (back - x).square().mean()

    forward = torch.compile(forward)
    seen, told = [], time.time()
    while spent < seconds:
        began = time.time()
        done = spent / seconds
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = loop.learning_rate(done, lr, seconds)
        torch.manual_seed(step)
        x = to_tensor(pictures(step, batch, 0.75 if done < 0.6 else 0.375, size)).to(device)
        loss, error = forward(x)
        loss.backward()
        for opt in opts:
            opt.step()
            opt.zero_grad()
        average.update()
        step += 1
        seen.append(error.item())
        spent += min(5.0, time.time() - began)
        if time.time() - told > 60:
            told = time.time()
            state = {"net": vae.state_dict(), "opts": [o.state_dict() for o in opts], "kept": average.kept}
            loop.save_state(path, {**state, "step": step, "spent": spent})
            decibel = -10 * np.log10(np.mean(seen) / 4)
            print(f"{spent:6.0f} s  step {step}  {decibel:.2f} dB  {loss.item():.4f}", flush=True)
            seen = []
    average.swap()
    return vae
