"""Noise: the same bits everywhere, PyTorch's stream in order, and elementary functions against 50-digit
truth."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from edgediff import elementary
from edgediff.errors import InputError
from edgediff.noise import PerPicture, TorchNoise

SHAPES = [(1, 4, 8, 8), (3,), (5,), (1, 1), (19,), (2, 4, 9, 13), (7,), (16,), (1, 4, 64, 64)]
# Written by the first run on one machine; every other machine has to print the same.
DIGESTS = {
    (0, (1, 4, 64, 64)): "a0e7a38cfebd316bd418dc95a58482383bdec184191c6ace98b0c3c46b83c5eb",
    (42, (2, 16, 8, 8)): "39a0166fd46237b5521fa25c424f27ae9ace6fc258ec55c9b2c61fee85f6753e",
    (4294967295, (1, 4, 9, 13)): "dcb9501320f1e310bedc35bd6e354ff8aa4c91a7f32e78e3df374591e621bd3e",
    (7, (11,)): "dff34022de09440fa1decd64d01e7226c108489b246eae7c8feccd7a5dcc981b",
}


@pytest.mark.parametrize(("seed", "shape"), DIGESTS)
def test_bits(seed: int, shape: tuple[int, ...]) -> None:
    assert hashlib.sha256(TorchNoise(seed).draw(shape).tobytes()).hexdigest() == DIGESTS[seed, shape]


def test_bits_do_not_depend_on_vector_units() -> None:
    script = (
        "import hashlib; from edgediff.noise import TorchNoise; "
        "print(hashlib.sha256(TorchNoise(0).draw((1, 4, 64, 64)).tobytes()).hexdigest())"
    )
    import numpy._core._multiarray_umath as core

    dispatched = " ".join(f for f in core.__cpu_dispatch__ if core.__cpu_features__.get(f))
    printed = set()
    for disabled in ("", dispatched):
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        printed.add(done.stdout.strip())
    assert printed == {DIGESTS[0, (1, 4, 64, 64)]}


@pytest.mark.parity
@pytest.mark.parametrize("seed", [0, 1, 42, 2**32 - 1])
def test_the_stream_is_torchs(seed: int) -> None:
    torch = pytest.importorskip("torch")
    generator, noise = torch.Generator().manual_seed(seed), TorchNoise(seed)
    for shape in SHAPES:
        expected = torch.randn(shape, generator=generator).numpy()
        # torch's float32 log and cos are within 2 units in the last place; below 16 numbers it is float64.
        assert np.abs(noise.draw(shape) - expected).max() <= (1e-6 if expected.size >= 16 else 1e-7), shape


def test_log_cos_sin() -> None:
    mpmath = pytest.importorskip("mpmath")
    x = np.concatenate([np.random.RandomState(0).random_sample(300), [2.0**-24, 0.5, 0.70710678, 1.0]])
    angles = 2 * np.pi * x
    cos, sin = elementary.cos_sin(angles)
    with mpmath.workdps(50):
        for i, (value, angle) in enumerate(zip(x, angles, strict=True)):
            true = float(mpmath.log(mpmath.mpf(float(value))))
            assert abs(elementary.log(np.asarray([value]))[0] - true) <= 4e-16 * max(abs(true), 1e-3)
            assert abs(cos[i] - float(mpmath.cos(mpmath.mpf(float(angle))))) < 3e-16
            assert abs(sin[i] - float(mpmath.sin(mpmath.mpf(float(angle))))) < 3e-16


def test_moments() -> None:
    values = TorchNoise(5).draw((1, 1000, 1000)).astype(np.float64)
    assert abs(values.mean()) < 4e-3
    assert abs(values.std() - 1) < 4e-3
    assert abs((values**4).mean() - 3) < 0.04


def test_a_list_of_seeds_draws_per_picture() -> None:
    both = PerPicture([TorchNoise(1), TorchNoise(2)])
    alone = [TorchNoise(1), TorchNoise(2)]
    for shape in ((2, 4, 8, 8), (2, 3)):
        drawn = both.draw(shape)
        for i, noise in enumerate(alone):
            assert np.array_equal(drawn[i : i + 1], noise.draw((1, *shape[1:])))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, None, "7"])
def test_seeds_that_torch_would_fold_are_refused(seed: object) -> None:
    with pytest.raises(InputError, match="seed"):
        TorchNoise(seed)  # type: ignore[arg-type]
