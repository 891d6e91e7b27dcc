"""The autoencoder: a fitted pyramid written into an AutoencoderKL, then its decoder trained further.

Half of the pictures are crowded with objects, because an empty background teaches nothing. Latents get noise
of fixed deviation on the way to the decoder, which therefore forgives a denoiser's small errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from benchmarks.reference import checkpoint, loop, nets, optimise, pyramid
from benchmarks.reference.grammar import Scene, scenes
from benchmarks.reference.install import encoder_of, install
from benchmarks.reference.pictures import pictures, to_pixels, to_tensor
from benchmarks.reference.render import render
from benchmarks.reference.score import score_pictures

NOISE = 0.06
FIT_BATCH, BATCH = 32, 8
FIT_SECONDS = 150.0
GATE = 96  # held-out captions whose round trip is judged


def train(setting: loop.Setting, budget: loop.Budget) -> dict[str, Any]:
    """Fit and install the pyramid, or take the checkpoint's, and train the decoder; say how good it is."""
    torch.manual_seed(0)
    vae = nets.autoencoder(setting.size)
    if setting.start:
        vae.load_state_dict(checkpoint.load_autoencoder(setting.start / "checkpoint").state_dict())
    else:
        fitting = budget.part(0.2, FIT_SECONDS)
        fit(setting, fitting)
        install(encoder(setting), vae)
        budget = budget.without(fitting)
    decode(setting, budget, encoder(setting), vae)
    gate = round_trip(reconstruction(vae.cpu()), scenes(77, GATE, "heldout-captions"), setting.size)
    shares = {name: row["share"] for name, row in gate["scores"].items()}
    print(f"round trip: {gate['decibel']} dB", shares, flush=True)
    return {"round_trip": {"decibel": gate["decibel"], "residual": gate["residual"], **shares}}


def fit(setting: loop.Setting, budget: loop.Budget) -> None:
    """Fit the pyramid, turn its latents to their axes and keep it in the work folder."""
    path, size, n = setting.work / "pyramid.pt", setting.size, setting.batch or FIT_BATCH
    if path.exists():
        return
    net = pyramid.fit(
        lambda step: to_tensor(pictures(20_000_000 + step, n, 0.5, size)),
        setting.work / "fit.pt",
        budget,
        n,
        setting.save_every,
    )
    net.rotate(to_tensor(pictures(30_000_000, 64 * n, 0.25, size)))
    loop.save_state(path, net.state_dict())


def encoder(setting: loop.Setting) -> pyramid.Pyramid:
    """The pyramid whose latents everything in the work folder is made for."""
    net, path = pyramid.Pyramid(), setting.work / "pyramid.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
    elif setting.start:
        net = encoder_of(checkpoint.load_autoencoder(setting.start / "checkpoint"))
        loop.save_state(path, net.state_dict())
    else:
        raise SystemExit(f"{path}: no latent space yet. Run the stage autoencoder first.")
    return net.requires_grad_(False)


def decode(setting: loop.Setting, budget: loop.Budget, net: pyramid.Pyramid, vae: AutoencoderKL) -> None:
    """Train the decoder on exact latents with a little noise; the averaged weights stay in ``vae``."""
    n, device = setting.batch or BATCH, setting.device
    net, vae = net.to(device), vae.to(device, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    optimizer, average = optimise.adam(vae), optimise.Average(vae, 0.999)

    def measure(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        back = vae.decoder(vae.post_quant_conv(z))
        return fidelity(back, x), (back - x).square().mean()

    compiled = torch.compile(measure) if setting.compiled else measure

    def step(i: int, share: float) -> dict[str, Tensor]:
        x = to_tensor(pictures(40_000_000 + i, n, 0.4, setting.size))
        z = net.encode(x.to(device))
        z = z + NOISE * torch.randn(z.shape, generator=optimise.generator(1, i)).to(device)
        loss, error = compiled(z.contiguous(memory_format=torch.channels_last), x.to(device))
        optimise.descend(loss, (optimizer, 1e-3 * optimise.cosine(i, share, 100)))
        average.update()
        return {"dB": -10 * (error.detach() / 4).log10(), "loss": loss.detach()}

    parts = {"vae": vae, "optimizer": optimizer, "average": average}
    loop.run(setting.work / "decoder.pt", parts, budget, step, n, setting.save_every)
    average.put()


def fidelity(back: Tensor, x: Tensor) -> Tensor:
    """Squared and absolute error, heavier at outlines, and the error of slopes."""
    across, down = x.diff(dim=3).abs().amax(1, True), x.diff(dim=2).abs().amax(1, True)
    edges = F.max_pool2d(torch.maximum(F.pad(across, (0, 1)), F.pad(down, (0, 0, 0, 1))), 3, 1, 1)
    weight = 1 + 3 * (edges > 0.15).float()
    error = back - x
    slope = (error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()) * 0.5
    return (weight * (error.square() + 0.5 * error.abs())).mean() + slope


def load(setting: loop.Setting) -> AutoencoderKL | None:
    """The averaged autoencoder of the work folder, or else the one that the run starts from."""
    path = setting.work / "decoder.pt"
    if path.exists():
        vae = nets.autoencoder(setting.size)
        vae.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["average"]["kept"])
        return vae
    return checkpoint.load_autoencoder(setting.start / "checkpoint") if setting.start else None


def reconstruction(vae: AutoencoderKL) -> Callable[[Tensor], Tensor]:
    """Pictures there and back."""
    return lambda x: vae.decode(vae.encode(x).latent_dist.mean).sample


@torch.no_grad()
def round_trip(
    back: Callable[[Tensor], Tensor], asked: Sequence[Scene], size: int = 64, batch: int = 32
) -> dict[str, Any]:
    """The ceiling of everything: clean renderings through encoder and decoder, judged."""
    clean = render(asked, size)
    starts = range(0, len(clean), batch)
    drawn = np.concatenate([to_pixels(back(to_tensor(clean[i : i + batch]))) for i in starts])
    error = float(np.square((drawn.astype(np.float64) - clean) / 255).mean())
    return {"decibel": round(-10 * np.log10(error), 2), **score_pictures(asked, drawn)}
