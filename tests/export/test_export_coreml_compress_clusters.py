"""Clusters in one dimension: closed forms, all partitions of a few numbers, and another exact solver."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import log10
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgediff.errors import SourceError
from edgediff.export.coreml.compress_clusters import clusters
from edgediff.export.coreml.palettes import palette

Numbers = NDArray[np.float64]


def error(values: Numbers, counts: Numbers, centres: Numbers) -> float:
    nearest = np.min((values[:, None] - centres[None]) ** 2, axis=1)
    return float(np.sum(counts * nearest))


def counted(weight: NDArray[np.float16]) -> tuple[Numbers, Numbers]:
    values, counts = np.unique(weight.astype(np.float64), return_counts=True)
    return values, counts.astype(np.float64)


def best_of_all(values: Numbers, counts: Numbers, k: int) -> float:
    """The least error over every way to cut the sorted values into k runs."""

    def spread(a: int, b: int) -> float:
        mean = np.average(values[a:b], weights=counts[a:b])
        return float(np.sum(counts[a:b] * (values[a:b] - mean) ** 2))

    cuts = combinations(range(1, len(values)), k - 1)
    return min(sum(spread(a, b) for a, b in pairwise((0, *cut, len(values)))) for cut in cuts)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_few_numbers_are_cut_in_the_best_of_all_ways(k: int, offset: float) -> None:
    rng = np.random.default_rng(k)
    for _ in range(5):
        values = np.sort(rng.standard_cauchy(12)) + offset
        counts = rng.integers(1, 9, 12).astype(np.float64)
        found = clusters(values, counts, k)
        assert error(values, counts, found) == pytest.approx(best_of_all(values, counts, k), rel=1e-9)


@pytest.mark.parametrize("k", [2, 4, 16, 64])
def test_even_numbers_are_cut_evenly(k: int) -> None:
    values = np.arange(4.0 * k)
    found = clusters(values, np.ones_like(values), k)
    assert found == pytest.approx(np.arange(k) * 4 + 1.5)
    assert error(values, np.ones_like(values), found) == pytest.approx(k * 4 * (4**2 - 1) / 12)


def test_as_many_clusters_as_numbers_are_the_numbers() -> None:
    values = np.array([-2.0, 0.0, 0.5])
    assert np.array_equal(clusters(values, np.ones(3), 4), values)
    assert np.array_equal(clusters(values, np.ones(3), 3), values)


def weights() -> Iterator[Any]:
    rng = np.random.default_rng(0)
    yield "normal", rng.standard_normal(40_000) * 0.02
    yield "heavy tails", np.clip(rng.standard_cauchy(40_000) * 0.01, -50, 50)
    yield (
        "two peaks",
        np.concatenate([rng.standard_normal(40_000) * 0.002, 0.5 + rng.standard_normal(99) * 0.1]),
    )
    yield "mostly zeros", np.where(rng.random(40_000) < 0.9, 0, rng.standard_normal(40_000))


@pytest.mark.parametrize(
    ("name", "weight"), list(weights()), ids=lambda it: it if isinstance(it, str) else ""
)
@pytest.mark.parametrize("bits", [1, 2, 4, 6])
def test_many_numbers_are_within_a_fiftieth_of_a_decibel_of_the_exact_error(
    name: str, weight: Numbers, bits: int
) -> None:
    exact = pytest.importorskip("coremltools._deps").kmeans1d
    values, counts = counted(weight.astype(np.float16))
    wanted = np.array(exact.cluster(values, 1 << bits, weights=counts).centroids)
    found = clusters(values, counts, 1 << bits)
    assert np.all(np.diff(found) > 0)
    loss = 10 * log10(error(values, counts, found) / error(values, counts, wanted))
    assert -1e-6 < loss < 0.02


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_indices_point_at_the_nearest_entry(dtype: Any) -> None:
    weight = (np.random.default_rng(0).standard_normal((8, 40, 3, 3)) * 0.02).astype(dtype)
    table, indices = palette(weight, 4)
    assert table.shape == (16,)
    assert table.dtype == dtype
    assert indices.shape == weight.shape
    nearest = np.min(np.abs(weight[..., None].astype(np.float64) - table.astype(np.float64)), axis=-1)
    # A float32 is looked up by its float16, so that it may miss by half a step of that.
    slack = 0 if dtype == np.float16 else 2**-11 * np.abs(weight)
    assert np.all(np.abs(weight - table[indices].astype(np.float64)) <= nearest + slack)


def test_numbers_that_fit_a_table_come_back() -> None:
    weight = np.array([[0.5, -0.0, 0.0], [0.25, 0.5, -3.0]], np.float16)
    table, indices = palette(weight, 2)
    assert np.array_equal(table[indices], weight)
    assert table.tolist() == [-3.0, 0.0, 0.25, 0.5]
    table, indices = palette(weight, 4)
    assert np.array_equal(table[indices], weight)
    assert set(table[4:].tolist()) == {0.5}


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e7, 1e30])
def test_float32_beyond_float16_has_a_palette(scale: float) -> None:
    weight = (np.random.default_rng(0).standard_normal(5000) * scale).astype(np.float32)
    table, indices = palette(weight, 8)
    difference = table[indices].astype(np.float64) - weight
    assert 10 * log10(np.sum(weight.astype(np.float64) ** 2) / np.sum(difference**2)) > 42


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e6])
def test_what_float16_cannot_hold_is_refused(wrong: float) -> None:
    with np.errstate(over="ignore"):
        weight = np.array([[0.5, wrong]]).astype(np.float16)
    with pytest.raises(SourceError, match="not finite"):
        palette(weight, 4)
