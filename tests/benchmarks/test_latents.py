"""The linear pyramid: what it says, an AutoencoderKL says after it, and latents turn without loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from benchmarks.reference import nets  # noqa: E402
from benchmarks.reference.install import encoder_of, install  # noqa: E402
from benchmarks.reference.pictures import pictures, to_pixels, to_tensor  # noqa: E402
from benchmarks.reference.pyramid import Pyramid  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def pyramid() -> Iterator[Any]:
    torch.manual_seed(3)
    net = Pyramid()
    for conv in net.modules():
        if isinstance(conv, torch.nn.Conv2d):
            torch.nn.init.orthogonal_(conv.weight)
            torch.nn.init.normal_(conv.bias, std=0.05)
    with torch.no_grad():
        # As large as a fitted one: latents near 1, pictures within [-1, 1].
        x = to_tensor(pictures(1, 16, 0.5))
        z = net.encode(x)
        net.code.weight /= z.std()
        scale = 0.5 / net.decode(net.encode(x)).std()
        net.back[-1].weight *= scale
        net.back[-1].bias *= scale
    return net


@pytest.fixture(scope="module")
def clean() -> Any:
    return to_tensor(pictures(2, 8, 0.5))


def test_rotated_latents_give_the_same_pictures(pyramid: Any, clean: Any) -> None:
    with torch.no_grad():
        before = pyramid.restore(pyramid.encode(clean))
        deviations = pyramid.rotate(to_tensor(pictures(3, 64, 0.5)))
        z = pyramid.encode(to_tensor(pictures(3, 64, 0.5)))
        after = pyramid.restore(pyramid.encode(clean))
    assert torch.allclose(before, after, atol=1e-3)
    flat = z.permute(0, 2, 3, 1).reshape(-1, nets.LATENT_CHANNELS)
    assert flat.mean(0).abs().max() < 1e-3
    assert flat.var(0).mean().item() == pytest.approx(1.0, abs=1e-2)
    assert torch.allclose(flat.std(0), deviations, rtol=1e-2, atol=1e-3)
    covariance = torch.cov(flat.T)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-2


@pytest.mark.parametrize("size", [64, 128])
def test_an_installed_pyramid_speaks_through_the_autoencoder(pyramid: Any, size: int) -> None:
    vae = nets.autoencoder(size)
    install(pyramid, vae)
    x = to_tensor(pictures(4, 4, 0.5, size))
    with torch.no_grad():
        wanted = pyramid.encode(x)
        found = vae.encode(x).latent_dist
        assert (found.mean - wanted).abs().max() < 1e-3
        assert found.std.max() < 0.05
        assert (vae.decode(wanted).sample - pyramid.restore(wanted)).abs().max() < 0.1


def test_the_encoder_is_read_back_even_from_half_precision(pyramid: Any, clean: Any) -> None:
    vae = nets.autoencoder()
    install(pyramid, vae)
    with torch.no_grad():
        wanted = pyramid.encode(clean)
        assert torch.allclose(encoder_of(vae).encode(clean), wanted, atol=1e-4)
        rounded = vae.half().float()
        assert torch.allclose(
            encoder_of(rounded).encode(clean), rounded.encode(clean).latent_dist.mean, atol=1e-3
        )


def test_pictures_are_the_same_for_the_same_seed_and_survive_tensors() -> None:
    one = pictures(5, 6, 0.5)
    assert one.shape == (6, 64, 64, 3)
    assert (one == pictures(5, 6, 0.5)).all()
    assert (to_pixels(to_tensor(one)) == one).all()
