"""The knapsack against all choices tried one by one, and the correction of a bound against closed forms."""

from __future__ import annotations

import itertools
from math import inf, log10

import numpy as np
import pytest

from edgediff.export.quantize.knapsack import Option, least, least_under_two
from edgediff.export.quantize.raising import raised

_ROUNDING = 1 / 32768  # of the bound, for each item


def best_of_all(items: list[list[Option]], bound: float) -> float:
    """The least cost by trying everything."""
    costs = [
        sum(option.cost for option in chosen)
        for chosen in itertools.product(*items)
        if sum(option.weight for option in chosen) <= bound
    ]
    return min(costs, default=inf)


def cost(items: list[list[Option]], chosen: list[int]) -> float:
    return sum(options[i].cost for options, i in zip(items, chosen, strict=True))


def weight(items: list[list[Option]], chosen: list[int]) -> float:
    return sum(options[i].weight for options, i in zip(items, chosen, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = [
        [
            Option(float(c), float(w))
            for c, w in zip(rng.random(4), 10.0 ** -rng.uniform(1, 7, 4), strict=True)
        ]
        for _ in range(6)
    ]
    bound = float(10.0 ** -rng.uniform(0, 5))
    chosen = least(items, bound)
    if chosen is None:
        assert best_of_all(items, bound * (1 - 6 * _ROUNDING)) == inf
        return
    assert weight(items, chosen) <= bound
    assert best_of_all(items, bound) <= cost(items, chosen) + 1e-12
    assert cost(items, chosen) <= best_of_all(items, bound * (1 - 6 * _ROUNDING)) + 1e-12


def test_whole_units_are_not_rounded() -> None:
    """Weights that are parts of the bound fill it to the brim."""
    items = [[Option(0.0, 0.25), Option(1.0, 0.0)] for _ in range(5)]
    chosen = least(items, 1.0)
    assert chosen is not None
    assert cost(items, chosen) == 1.0


def test_a_bound_of_nothing_leaves_what_weighs_nothing() -> None:
    items = [[Option(5.0, 0.0), Option(1.0, 1e-12)]] * 3
    assert least(items, 0.0) == [0, 0, 0]


def test_what_is_too_heavy_is_none() -> None:
    assert least([[Option(0.0, 2.0)], [Option(0.0, 0.1)]], 1.0) is None
    assert least([[Option(0.0, 0.6)], [Option(0.0, 0.6)]], 1.0) is None


def test_of_equal_costs_the_lighter_is_taken() -> None:
    assert least([[Option(1.0, 0.5), Option(1.0, 0.1)]], 1.0) == [1]


def test_a_second_bound_is_held() -> None:
    rng = np.random.default_rng(0)
    items = [[Option(float(c), float(w)) for c, w in rng.random((3, 2))] for _ in range(6)]
    seconds = [[float(s) for s in rng.random(3)] for _ in range(6)]
    free = least(items, 3.0)
    assert free is not None
    spent = sum(each[i] for each, i in zip(seconds, free, strict=True))
    limit = 0.8 * spent
    chosen = least_under_two(items, 3.0, seconds, limit)
    assert chosen is not None
    assert sum(each[i] for each, i in zip(seconds, chosen, strict=True)) <= limit
    assert weight(items, chosen) <= 3.0
    both = [
        sum(items[k][i].cost for k, i in enumerate(each))
        for each in itertools.product(range(3), repeat=6)
        if sum(items[k][i].weight for k, i in enumerate(each)) <= 3.0
        and sum(seconds[k][i] for k, i in enumerate(each)) <= limit
    ]
    # A price finds the best on the convex hull: here within a tenth of the best of all.
    assert min(both) <= cost(items, chosen) <= 1.1 * min(both) + 0.1


def test_a_second_bound_that_nothing_holds_is_none() -> None:
    items = [[Option(1.0, 0.0), Option(2.0, 0.0)]]
    assert least_under_two(items, 1.0, [[5.0, 4.0]], 3.0) is None
    assert least_under_two(items, 1.0, [[5.0, 4.0]], 4.5) == [1]


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0, 300.0])
@pytest.mark.parametrize("floor", [20.0, 35.0, 50.0])
def test_a_bound_is_corrected_until_the_floor_holds(factor: float, floor: float) -> None:
    """The whole has ``factor`` times the error that was added up; the answer is close to the floor."""
    asked: list[float] = []

    def reached(bound: float) -> float:
        asked.append(bound)
        return -10 * log10(factor * bound)

    held = raised(lambda bound: bound, reached, floor, 12)
    assert held is not None
    assert floor <= -10 * log10(factor * held) <= floor + 0.5
    assert len(asked) <= 12


def test_a_plan_that_cannot_be_worse_is_taken() -> None:
    """Everything at its smallest still holds the floor: it is measured twice at most."""
    measured: list[int] = []

    def reached(plan: int) -> float:
        measured.append(plan)
        return 60.0

    assert raised(lambda bound: 7, reached, 30.0, 7) == 7
    assert len(measured) == 1


def test_where_nothing_holds_no_error_is_allowed() -> None:
    assert raised(lambda bound: bound, lambda bound: -200.0 if bound else 200.0, 30.0, 3) == 0.0


def test_what_cannot_be_picked_is_none() -> None:
    assert raised(lambda bound: None, lambda plan: 0.0, 30.0, 3) is None
