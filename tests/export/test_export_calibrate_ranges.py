"""Spans: against what other searches find, against closed forms, and with numbers far outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgediff.export.emit.integers import Span
from edgediff.export.quantize.ranges import Seen, ends, least_error

Array = np.ndarray[Any, Any]


def seen(values: Array, passes: int = 4) -> Seen:
    found = Seen()
    for part in np.array_split(values.astype(np.float32), passes):
        found.add(float(part.min()), float(part.max()), part)
    return found


def error(values: Array, span: Span, signed: bool) -> tuple[float, float]:
    """Mean squared rounding and clipping errors of 8-bit codes, by ONNX's definition of QuantizeLinear."""
    scale, zero = span.signed() if signed else span.unsigned()
    low, high = (-127, 127) if signed else (0, 255)
    codes = np.rint(values / scale) + zero
    cut = np.clip(codes, low, high)
    squares = ((cut - zero) * scale - values) ** 2
    return float(squares[codes == cut].sum()) / values.size, float(squares[codes != cut].sum()) / values.size


def normal(random: np.random.Generator) -> Array:
    return random.standard_normal(60_000)


def silu(random: np.random.Generator) -> Array:
    x = 2 * random.standard_normal(60_000)
    return np.asarray(x / (1 + np.exp(-x)))


def laplace(random: np.random.Generator) -> Array:
    return random.laplace(size=60_000)


def shifted(random: np.random.Generator) -> Array:
    return random.standard_normal(60_000) - 3


@pytest.mark.parametrize("draw", [normal, silu, laplace, shifted])
def test_no_span_of_a_grid_is_better(draw: Any) -> None:
    """An exhaustive search over both ends, for both forms alike."""
    values = draw(np.random.default_rng(1))

    def joint(span: Span) -> float:
        total = 0.0
        for signed in (False, True):
            rounded, cut = error(values, span, signed)
            total += float(np.log(rounded + cut))
        return total

    found = least_error(seen(values))
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    grid = [Span(low * a, high * b) for a in np.linspace(0.1, 1, 19) for b in np.linspace(0.1, 1, 19)]
    best = min(map(joint, grid))
    assert joint(found) <= best + 0.02
    assert joint(found) < joint(Span(low, high)) + 1e-9


def test_normal_numbers_are_cut_where_theory_says() -> None:
    """Hui and Neuhoff (2001): the best uniform quantizer of N levels reaches less than 2 sqrt(ln N) sigma."""
    found = least_error(seen(np.random.default_rng(2).standard_normal(400_000)))
    assert 3.8 < found.high < 2 * np.sqrt(np.log(256))
    assert 3.8 < -found.low < 2 * np.sqrt(np.log(256))


def test_even_numbers_are_not_cut() -> None:
    values = np.random.default_rng(3).uniform(-1, 1, 100_000)
    found = least_error(seen(values))
    assert found.high == pytest.approx(1, rel=0.02)
    assert found.low == pytest.approx(-1, rel=0.02)


def test_an_outlier_that_is_seen_once_in_a_million_is_cut() -> None:
    values = np.random.default_rng(4).standard_normal(1 << 16)
    found = Seen()
    found.add(-1000.0, 1000.0, values.astype(np.float32))  # the exact ends; the sample has neither
    assert ends(found) == Span(-1000.0, 1000.0)
    span = least_error(found)
    assert 3 < span.high < 30
    assert -30 < span.low < -3


def test_zeros_and_constants_have_a_span() -> None:
    zeros = least_error(seen(np.zeros(1000)))
    assert zeros == Span(0.0, 0.0)
    assert zeros.unsigned()[0] > 0
    for value in (-3.0, 0.25):
        constant = least_error(seen(np.full(1000, value)))
        rounded, cut = error(np.full(1000, value), constant, signed=False)
        assert rounded + cut < (abs(value) / 200) ** 2


def test_all_passes_count_alike_however_many() -> None:
    """The sample is thinned as it grows, so that it holds the first pass no less than the last."""
    found = Seen()
    for i in range(64):
        found.add(i, i, np.full(20_000, i, np.float32))
    values, counts = np.unique(found.samples, return_counts=True)
    assert values.tolist() == list(range(64))
    assert found.samples.size <= 1 << 16
    assert counts.max() == counts.min()


def test_ends_are_exact() -> None:
    values = np.random.default_rng(5).standard_normal(300_000)
    found = seen(values)
    assert (found.low, found.high) == (pytest.approx(values.min()), pytest.approx(values.max()))
    assert ends(found).low <= least_error(found).low <= 0 <= least_error(found).high <= ends(found).high
