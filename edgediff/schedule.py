"""Schedules: where a sampler starts and which hops it makes.

A noisy sample at a :class:`Point` is ``x = alpha * clean + sigma * noise``. A :class:`Schedule` is a start
scale and a tuple of hops from one point to the next; samplers walk the pairs and never look a timestep up.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import BundleError, InputError

Floats = NDArray[np.float64]
Config = Mapping[str, Any]


class Point(NamedTuple):
    """A noise level: ``t`` is what the network is told, ``x = alpha * clean + sigma * noise``."""

    t: float
    alpha: float
    sigma: float


class Schedule(NamedTuple):
    """``start`` scales the first standard normal draw; ``hops`` go from the noisiest point to the last.

    A schedule that was cut remembers how many hops lie before (``skipped``) and after (``dropped``) its own,
    because some solvers choose their order by a step's place in the whole.
    """

    start: float
    hops: tuple[tuple[Point, Point], ...]
    skipped: int = 0
    dropped: int = 0

    @property
    def total(self) -> int:
        """Hops of the whole schedule, those that were cut off included."""
        return self.skipped + len(self.hops) + self.dropped

    def cut(self, begin: int, end: int | None = None) -> Schedule:
        """Return the schedule of hops ``begin`` to ``end`` alone, which must be at least one."""
        hops = self.hops[begin:end]
        after = len(self.hops) - begin - len(hops)
        return self._replace(hops=hops, skipped=self.skipped + begin, dropped=self.dropped + after)


class Request(NamedTuple):
    """What a caller asks of a schedule: a number of steps, its own timesteps, or its own sigmas.

    ``strength`` is read by solvers that lay their grid out for it (LCM); others are cut afterwards.
    ``tokens`` is how many tokens the denoiser sees, or ``mu`` the shift itself, where the shift depends on
    the size of the result (flow matching).
    """

    steps: int
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    strength: float = 1.0
    tokens: int | None = None
    mu: float | None = None


def alphas_cumprod(config: Config) -> Floats:
    """Return the cumulative products of ``1 - beta``, shape (num_train_timesteps,).

    Betas as in DDPM (Ho et al., 2020), ``linear`` or ``scaled_linear``, or the cosine schedule (Nichol and
    Dhariwal, 2021, eq. 17); ``rescale_betas_zero_snr`` is algorithm 1 of Lin et al. (2023). Everything is
    rounded to float32 where diffusers rounds it, because near zero SNR the difference of two roots loses most
    of its digits; what is computed from the table afterwards is float64.

    Raises:
        BundleError: the configuration's values are out of range or of an unknown kind.
    """
    count = config["num_train_timesteps"]
    kind = config["beta_schedule"]
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 1_000_000:
        raise BundleError(
            f"scheduler config: num_train_timesteps is {count!r}; it must be an integer from 1 to 10^6."
        )
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], np.float32)
    elif kind == "linear":
        betas = _linspace32(config["beta_start"], config["beta_end"], count)
    elif kind == "scaled_linear":
        betas = _linspace32(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, count) ** 2
    elif kind == "squaredcos_cap_v2":
        edges = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - edges[1:] / edges[:-1], 0.999).astype(np.float32)
    else:
        raise BundleError(
            f"scheduler config: beta_schedule {kind!r} is unknown; use linear, scaled_linear or "
            "squaredcos_cap_v2."
        )
    if betas.ndim != 1 or not np.all((betas >= 0) & (betas < 1)):
        raise BundleError("scheduler config: betas must be a list of numbers in [0, 1).")
    products = _products(np.float32(1) - betas)
    if config.get("rescale_betas_zero_snr"):
        roots = np.sqrt(products)
        squares = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
        ratios = np.append(squares[:1], squares[1:] / squares[:-1])
        products = _products(np.float32(1) - (np.float32(1) - ratios))
    return products.astype(np.float64)


def _products(alphas: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cumulative products, accumulated in float64 and rounded once."""
    return np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def _linspace32(start: float, end: float, count: int) -> NDArray[np.float32]:
    """Evenly spaced float32 values, each half counted from its own end as PyTorch's linspace does.

    Its step is a float32 number, and each value is one fused multiply-add: computed wide, rounded once.
    """
    if count == 1:
        return np.asarray([start], np.float32)
    low, high = float(np.float32(start)), float(np.float32(end))
    step = float(np.float32(np.float32(end) - np.float32(start)) / np.float32(count - 1))
    index = np.arange(count, dtype=np.float64)
    values = np.where(index < count // 2, low + step * index, high - step * (count - 1 - index))
    return values.astype(np.float32)


def spaced(config: Config, steps: int, last: int | None = None, extra: int = 0) -> Floats:
    """Return ``steps`` timesteps, noisiest first (Lin et al. 2023, table 2: linspace, leading, trailing).

    ``extra`` = 1 is the spacing of DPM-Solver: one point more is laid out and the cleanest one dropped.
    ``last`` is the number of usable timesteps where a solver clips the noisiest ones. Values are not rounded
    for ``linspace``.
    """
    total: int = config["num_train_timesteps"]
    last = total if last is None else last
    kind = config["timestep_spacing"]
    if kind == "linspace":
        even: Floats = np.linspace(0, last - 1, steps + extra)[::-1]
        return even[: len(even) - extra]
    if kind == "leading":
        ratio = last // (steps + extra)
        grid = (np.arange(0, steps + extra) * ratio)[::-1]
        offset: int = config["steps_offset"]
        return grid[: len(grid) - extra].astype(np.float64) + offset
    if kind == "trailing":
        # Cut, because rounding may let the range reach one more value.
        return np.round(np.arange(last, 0, -total / steps)[:steps]).astype(np.float64) - 1
    raise BundleError(
        f"scheduler config: timestep_spacing {kind!r} is unknown; use linspace, leading or trailing."
    )


def checked_timesteps(timesteps: Sequence[float], total: int, whole: bool = True) -> tuple[float, ...]:
    """Return custom timesteps as a tuple, or raise InputError if they do not fall strictly inside [0,
    total)."""
    values = tuple(float(t) for t in timesteps)
    if not values:
        raise InputError("timesteps: an empty list was given; give at least one.")
    if whole and not all(t.is_integer() for t in values):
        raise InputError(f"timesteps: {list(values)} must be whole numbers for this sampler.")
    falling = all(a > b for a, b in itertools.pairwise(values))
    if not falling or not all(0 <= t < total for t in values):
        raise InputError(f"timesteps: {list(values)} must fall strictly and lie between 0 and {total - 1}.")
    return values


def chained(points: Sequence[Point]) -> tuple[tuple[Point, Point], ...]:
    """Return the hops between neighbours of ``points``."""
    return tuple(itertools.pairwise(points))
