"""Fits of the sweeps: what was put in comes out, and noise is told as such."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.sweeps_fit import exponent, fits, medians, two_terms
from benchmarks.sweeps_plot import scene


def visits(costs: dict[float, float], noise: float = 0.0, count: int = 3) -> list[dict[str, Any]]:
    """Visits whose seconds are those of ``costs`` by amount, each a little off."""
    rng = np.random.default_rng(0)
    return [
        {
            "cells": {
                f"{a:g}": {"seconds": [c * float(1 + noise * rng.standard_normal())]}
                for a, c in costs.items()
            }
        }
        for _ in range(count)
    ]


def test_a_power_law_has_its_exponent() -> None:
    found = exponent([(x, 0.3 * x**1.7) for x in (1.0, 2.0, 5.0, 9.0)])
    assert found == {"exponent": 1.7, "low": 1.7, "high": 1.7}


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    amounts = [1.0, 2.0, 4.0, 8.0] * 2
    hits = 0
    for _ in range(300):
        found = exponent([(x, x**1.3 * float(np.exp(0.1 * rng.standard_normal()))) for x in amounts])
        hits += found["low"] <= 1.3 <= found["high"]
    assert 0.91 < hits / 300 < 0.985


def test_too_few_points_have_no_interval() -> None:
    for points in ([(1.0, 1.0), (2.0, 2.0)], [(1.0, 1.0)] * 5):
        with pytest.raises(ValueError, match="no slope"):
            exponent(points)


def test_two_terms_are_told_apart() -> None:
    found = two_terms([(x, 3 * x + 0.5 * x * x) for x in (1.0, 2.0, 4.0, 8.0)], (1.0, 2.0))
    assert (found["first"], found["second"], found["worst"]) == pytest.approx((3, 0.5, 0))
    falling = two_terms([(x, 3 * x**0.8) for x in (1.0, 2.0, 4.0, 8.0)], (1.0, 2.0))
    assert falling["second"] == 0  # never below: a cost is no gain
    assert falling["first"] > 0
    assert falling["worst"] > 0.1


def test_pixels_have_two_regimes() -> None:
    costs = {side: 2e-6 * side**2 + 4e-12 * side**4 for side in (256.0, 384.0, 512.0, 768.0, 1024.0)}
    found = fits("pixels", visits(costs, 0.005))
    assert found["small"]["exponent"] < found["large"]["exponent"]
    assert 1 < found["all"]["exponent"] < 2
    assert found["equal_at_side"] == pytest.approx((2e-6 / 4e-12) ** 0.5, rel=0.05)
    assert (found["small"]["sides"], found["large"]["sides"]) == ([256, 512], [512, 1024])


def test_steps_have_a_fixed_part() -> None:
    found = fits("steps", visits({n: 2 + 0.5 * n for n in (1.0, 2.0, 4.0, 8.0)}))
    assert (found["fixed_s"], found["each_s"]) == pytest.approx((2, 0.5))
    assert found["all"]["exponent"] < 0.6


def test_medians_are_of_visits() -> None:
    found = medians([{"cells": {"1": {"seconds": [1.0, 9.0, 2.0]}}}, {"cells": {"1": {"seconds": [4.0]}}}])
    assert found == {1.0: {"median": 3.0, "min": 2.0, "max": 4.0, "visits": 2}}


def test_the_plot_holds_every_configuration() -> None:
    made = visits({1.0: 1.0, 2.0: 1.9, 4.0: 4.1})
    record: dict[str, Any] = {"medians": {}, "fits": {}}
    for name in ("a", "b"):
        for sweep in ("pixels", "batch", "steps"):
            key = f"{name}/{sweep}"
            record["medians"][key] = {f"{k:g}": v for k, v in medians(made).items()}
            record["fits"][key] = fits(sweep, made)
    drawn = scene({"configs": {"a": {}, "b": {}}, "seconds": record})
    texts = [shape.text for shape in drawn.shapes if hasattr(shape, "text")]
    assert sum(text.startswith("a: exponent") for text in texts) == 3
    assert sum(text.startswith("b: exponent") for text in texts) == 3
