"""The wide reference model: its autoencoder in closed form, and what its denoiser starts as."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from benchmarks.reference import checkpoint, wide_nets, wide_start  # noqa: E402
from benchmarks.reference.grammar import scenes  # noqa: E402
from benchmarks.reference.install import encoder_of  # noqa: E402
from benchmarks.reference.pictures import to_pixels, to_tensor  # noqa: E402
from benchmarks.reference.render import render  # noqa: E402
from benchmarks.reference.score import score_pictures  # noqa: E402

pytestmark = pytest.mark.parity


@torch.no_grad()
def test_latents_are_means_of_two_by_two_pixels_and_pictures_survive() -> None:
    asked = scenes(3, 12, "heldout-captions")
    pictures = render(asked)
    vae = wide_nets.autoencoder().eval()
    latents = vae.encode(to_tensor(pictures)).latent_dist.mean
    means = pictures.reshape(12, 32, 2, 32, 2, 3).astype(np.float64).mean((2, 4)) / 127.5 - 1
    np.testing.assert_allclose(latents.permute(0, 2, 3, 1), means, atol=1e-5)
    np.testing.assert_allclose(
        latents * vae.config.scaling_factor, wide_nets.latents(to_tensor(pictures)), atol=1e-5
    )
    back = score_pictures(asked, to_pixels(vae.decode(latents).sample))["scores"]
    assert back["whole"]["share"] >= 0.8
    assert back["count"]["share"] == back["colour"]["share"] == 1


@torch.no_grad()
def test_the_inner_levels_are_the_teachers() -> None:
    teacher, unet = checkpoint.load_teacher(), wide_nets.denoiser()
    wide_start.inside(teacher.unet, unet)
    wide_start.times(teacher.unet, unet)
    x, text, time = torch.randn(2, 48, 8, 8), torch.randn(2, 32, 128), torch.randn(2, 192)
    for ours, theirs in ((2, 0), (3, 1)):
        wanted = teacher.unet.down_blocks[theirs](x, time, encoder_hidden_states=text)[0]
        x = unet.down_blocks[ours](x, time, encoder_hidden_states=text)[0]
        if theirs == 0:  # the wide one goes on to a coarser level just as the teacher does
            assert wanted.shape == x.shape
        torch.testing.assert_close(x, wanted)
    t = torch.arange(0, 1000, 7)
    ours, theirs = (net.time_embedding(net.time_proj(t)) for net in (unet, teacher.unet))
    assert (ours - theirs).square().mean() < 0.05 * theirs.var()


def test_white_noise_stays_white() -> None:
    rows = wide_start.projection(encoder_of(checkpoint.load_autoencoder()))
    torch.testing.assert_close(rows @ rows.T, torch.eye(16), atol=1e-5, rtol=0)
    x = torch.randn(1, 3, 32, 32)
    assert wide_start.blocks(x, rows).shape == (1, 16, 8, 8)
    assert wide_start.blocks(x, rows).square().sum() < x.square().sum()
