"""Guidance in a part of the walk alone (Kynkaanniemi et al., 2024, "Applying Guidance in a Limited
Interval").

At high noise guidance narrows what is drawn, at low noise it does next to nothing; outside the interval one
pass over the prompt is made in the place of two. The paper's interval is one of noise levels; callers here
give shares of the steps, as diffusers' guiders (``start``, ``stop``) do, and what is compared is the noise
level of those steps, so that solvers that ask several times in a step switch where the paper says.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from edgediff.denoise import Network
from edgediff.sampler import Array
from edgediff.schedule import Point, Schedule

_EQUAL = 1e-9  # noise levels of one step, computed twice


def steps_of(schedule: Schedule, low: float, high: float) -> range:
    """Return the guided steps: from int(low * steps) on, and before int(high * steps)."""
    return range(int(low * len(schedule.hops)), int(high * len(schedule.hops)))


def within(schedule: Schedule, low: float, high: float) -> Callable[[Point], bool]:
    """Return what says of a point whether it lies in the interval.

    The interval's upper end is the noise level of its first step, included (anything noisier, if that is the
    schedule's first); its lower end that of the first step after it, excluded.
    """
    guided = steps_of(schedule, low, high)
    hops = schedule.hops
    most = math.inf if guided.start == 0 else _level(hops[guided.start][0])
    least = -1.0 if guided.stop >= len(hops) else _level(hops[guided.stop][0])

    def inside(at: Point) -> bool:
        level = _level(at)
        return level > least * (1 + _EQUAL) and level <= most * (1 + _EQUAL)

    return inside


def switched(guided: Network, alone: Network, inside: Callable[[Point], bool]) -> Network:
    """Return a network that is ``guided`` where ``inside`` says so, and ``alone`` elsewhere."""

    def network(x: Array, at: Point) -> Array:
        return guided(x, at) if inside(at) else alone(x, at)

    return network


def _level(at: Point) -> float:
    """The noise level sigma that the point has where alpha is 1."""
    return math.inf if at.alpha == 0 else at.sigma / at.alpha
