"""Ratios and similarity against closed forms and against their definitions, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgediff import quality
from edgediff.errors import InputError
from edgediff.quality import Tally, likeness, psnr_db, snr_db, ssim

X, OFF = np.array([3.0, -4.0, 0.0, 0.0]), np.array([0.5, 0.0, 0.0, 0.0])


def test_snr_is_that_of_the_definition() -> None:
    # Signal 25, noise 0.25: a hundred times less.
    assert snr_db(X, X + OFF) == pytest.approx(20.0)
    assert snr_db(X, 1.1 * X) == pytest.approx(20.0)  # a tenth of everything
    assert snr_db(X, 0 * X) == pytest.approx(0.0)


def test_psnr_is_that_of_the_definition() -> None:
    # Range 7, mean square 0.0625.
    assert psnr_db(X, X + OFF) == pytest.approx(10 * math.log10(49 / 0.0625))
    assert psnr_db(X, X + 1, peak=255) == pytest.approx(20 * math.log10(255))


def test_neither_depends_on_the_type_that_numbers_come_in() -> None:
    a = np.array([[0, 255], [10, 20]], np.uint8)
    b = np.array([[255, 0], [10, 20]], np.uint8)  # unsigned differences would wrap
    assert psnr_db(a, b, 255) == pytest.approx(10 * math.log10(2))
    assert snr_db(a.astype(np.float16), b) == snr_db(a, b)


def test_equal_and_not_finite() -> None:
    assert snr_db(X, X) == psnr_db(X, X) == math.inf
    for bad in (np.nan, np.inf, -np.inf):
        found = np.array([bad, 0, 0, 0])
        assert snr_db(X, found) == psnr_db(X, found) == psnr_db(X, found, 1.0) == -math.inf
    assert snr_db(0 * X, X) == -math.inf  # nothing but noise
    assert psnr_db(0 * X, X) == -math.inf  # a range of nothing
    assert quality.stored(math.inf) == quality.MOST
    assert quality.stored(-math.inf) == quality.stored(math.nan) == -quality.MOST
    assert quality.stored(30.12345) == 30.123


def test_float32_that_differs_stays_below_what_stands_for_equal() -> None:
    a = np.full(1 << 20, 1e30, np.float32)
    b = a.copy()
    b[0] = np.nextafter(b[0], np.float32(0))  # as little as there can be, in one of a million numbers
    assert 190 < snr_db(a, b) < 212
    assert quality.stored(snr_db(a[:1000], b[:1000])) < quality.MOST


def test_a_tally_is_one_long_array() -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 5, 7))
    tally = Tally()
    for left, right in zip(a, b, strict=True):
        tally.add(left, right)
    assert tally.snr_db == pytest.approx(snr_db(a, b))
    assert tally.psnr_db == pytest.approx(psnr_db(a, b))


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (X, X[:2], "shapes"),
        (X[:0], X[:0], "empty"),
        (X * np.nan, X, "reference"),
        (np.array([np.inf, 1, 2, 3]), X, "reference"),
    ],
)
def test_what_cannot_be_compared(a: object, b: object, said: str) -> None:
    for ratio in (snr_db, psnr_db):
        with pytest.raises(InputError, match=said):
            ratio(a, b)  # type: ignore[arg-type, operator]


@pytest.mark.parametrize("peak", [0.0, -1.0, np.nan, np.inf])
def test_a_peak_is_above_zero(peak: float) -> None:
    with pytest.raises(InputError, match="peak"):
        psnr_db(X, X, peak)


def by_definition(a: np.ndarray, b: np.ndarray, peak: float) -> float:  # type: ignore[type-arg]
    """Wang et al. (2004), eq. 13, window by window."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = (p[top : top + 11, left : left + 11].astype(float) for p in (a, b))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            cov = (window * (x - mx) * (y - my)).sum()
            values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("shape", [(11, 11), (16, 23), (64, 64)])
def test_ssim_is_that_of_the_definition(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    a = random.integers(0, 256, shape, np.uint8)
    b = np.clip(a + random.normal(0, 40, shape), 0, 255).astype(np.uint8)
    assert ssim(a, b) == pytest.approx(by_definition(a, b, 255), abs=1e-12)
    unit = (a / 255).astype(np.float32), (b / 255).astype(np.float32)
    assert ssim(*unit) == pytest.approx(by_definition(a, b, 255), abs=1e-6)


def test_ssim_of_flat_pictures_has_a_closed_form() -> None:
    a, b = np.full((20, 20), 0.25), np.full((20, 20), 0.75)
    wanted = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert ssim(a, b) == pytest.approx(wanted)


def test_ssim_averages_channels_and_knows_its_ends() -> None:
    random = np.random.default_rng(2)
    a, b = random.random((2, 32, 32, 3))
    assert ssim(a, b) == pytest.approx(np.mean([ssim(a[..., c], b[..., c]) for c in range(3)]))
    assert ssim(a, a) == 1.0
    assert ssim(a, 1 - a) < 0  # a negative is unlike
    assert ssim(a, a * np.nan) == -1.0
    for bad in (a[:10], a[0, 0]):
        with pytest.raises(InputError, match="ssim"):
            ssim(bad, bad)


def test_ssim_agrees_with_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    random = np.random.default_rng(3)
    a, b = random.random((2, 40, 33, 3))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    wanted = metrics.structural_similarity(a, b, data_range=1.0, channel_axis=2, **options)
    assert ssim(a, b) == pytest.approx(wanted, abs=1e-12)


def test_likeness_of_several_pictures() -> None:
    random = np.random.default_rng(4)
    a = random.integers(0, 256, (2, 16, 16, 3), np.uint8)
    b = np.stack([a[0], 255 - a[1]])
    found = likeness(list(a), list(b))
    assert found.psnr_db == pytest.approx(psnr_db(a, b, 255))
    assert found.lowest_ssim == pytest.approx(ssim(a[1], b[1]))
    assert found.ssim == pytest.approx((1 + ssim(a[1], b[1])) / 2)
    small = likeness([a[0, :8]], [a[0, :8]])
    assert small.stored() == {"psnr_db": quality.MOST, "ssim": None, "lowest_ssim": None}
