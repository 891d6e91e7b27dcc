"""Philox against published vectors, and the stream against what an NVIDIA card draws."""

from __future__ import annotations

import numpy as np
import pytest

from edgediff.noise import PerPicture, stream
from edgediff.philox import PhiloxNoise, philox

# Random123's known answers for philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    words = philox(tuple(np.uint64([c]) for c in counter), key)  # type: ignore[arg-type]
    assert tuple(int(w[0]) for w in words) == expected


def test_what_a_card_draws() -> None:
    """torch.manual_seed(0); torch.randn(6, device="cuda"), as printed in public threads, to four digits."""
    expected = [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797]
    assert np.abs(PhiloxNoise(0).draw((6,)) - np.float32(expected)).max() < 1e-4


def test_it_is_standard_normal() -> None:
    x = PhiloxNoise(11).draw((1 << 20,)).astype(np.float64)
    assert abs(x.mean()) < 4e-3
    assert abs(x.std() - 1) < 3e-3
    assert abs((x**4).mean() - 3) < 0.03
    assert np.isfinite(x).all()


def test_draws_and_shapes() -> None:
    one, other = PhiloxNoise(5), PhiloxNoise(5)
    first = one.draw((2, 3))
    assert first.dtype == np.float32
    assert np.array_equal(first.ravel(), other.draw((6,)))
    assert not np.array_equal(first, one.draw((2, 3)))
    assert not np.array_equal(PhiloxNoise(2**32).draw((4,)), PhiloxNoise(0).draw((4,)))
    assert PhiloxNoise(2**64 - 1).draw((0,)).shape == (0,)


@pytest.mark.parametrize("source", ["torch", "philox", "numpy"])
def test_a_list_of_seeds(source: str) -> None:
    both = PerPicture([stream(source, 3), stream(source, 4)])
    drawn = both.draw((2, 4, 5))
    assert np.array_equal(drawn[1], stream(source, 4).draw((1, 4, 5))[0])
    assert np.array_equal(both.first(1).draw((1, 20)), _second(source, 3))


def _second(source: str, seed: int) -> np.ndarray:
    noise = stream(source, seed)
    noise.draw((1, 4, 5))
    return noise.draw((1, 20))


def test_numpy_is_numpy() -> None:
    expected = np.random.RandomState(7).standard_normal((3, 4)).astype(np.float32)
    assert np.array_equal(stream("numpy", 7).draw((3, 4)), expected)
