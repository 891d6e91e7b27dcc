"""Helpers in sigma space (noise level relative to the clean sample, ``sigma / alpha``), shared by solver
families."""

from __future__ import annotations

import math

import numpy as np

from edgediff import elementary
from edgediff.errors import BundleError
from edgediff.schedule import Config, Floats

ZERO_SNR_LAST = 2.0**-24
"""alpha-bar of the noisiest step where zero terminal SNR would make sigma infinite (the value diffusers
uses)."""


def sigma_table(products: Floats, zero_snr: bool) -> Floats:
    """Return ``sigma / alpha`` per training timestep, shape (num_train_timesteps,), rising."""
    products = products.copy()
    if zero_snr:
        products[-1] = ZERO_SNR_LAST
    return np.sqrt((1 - products) / products)


def sigma_table32(products: Floats, zero_snr: bool) -> Floats:
    """Return :func:`sigma_table` as diffusers has it: rounded to float32 after each operation.

    For solvers whose timesteps are cut to whole numbers, where the last bit of an end can decide.
    """
    rounded = products.astype(np.float32)
    if zero_snr:
        rounded[-1] = np.float32(ZERO_SNR_LAST)
    table: Floats = np.sqrt((np.float32(1) - rounded) / rounded).astype(np.float64)
    return table


def karras(low: float, high: float, steps: int, rho: float = 7.0) -> Floats:
    """Return ``steps`` sigmas from ``high`` down to ``low``: Karras et al. (2022), eq. 5."""
    return karras_at(np.linspace(0, 1, steps), low, high, rho)


def karras_at(ramp: Floats, low: float, high: float, rho: float = 7.0) -> Floats:
    """Return the sigmas of :func:`karras` at places between ``high`` (0) and ``low`` (1)."""
    sigmas: Floats = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return sigmas


def exponential(low: float, high: float, steps: int) -> Floats:
    """Return ``steps`` sigmas from ``high`` down to ``low``, evenly spaced in their logarithm."""
    return np.exp(np.linspace(np.log(high), np.log(low), steps))


def lu(low: float, high: float, steps: int) -> Floats:
    """Return ``steps`` sigmas from ``high`` down to ``low``, evenly spaced in lambda = log(alpha / sigma).

    Lu et al. (2022, arXiv:2206.00927), section 4. In exact numbers this is :func:`exponential`; diffusers
    rounds the two ends of lambda to float32.
    """
    ends = elementary.log(np.asarray([high, low])).astype(np.float32).astype(np.float64)
    sigmas: Floats = np.exp(ends[0] + np.linspace(0, 1, steps) * (ends[1] - ends[0]))
    return sigmas


def flow(steps: int, total: int, shift: float) -> Floats:
    """Return ``steps`` sigmas of flow matching, from just below 1 (a part in ``total``) down, shifted."""
    even = 1.0 - np.linspace(1, 1 / total, steps + 1)
    return flow_shifted(even[:0:-1], shift)


def flow_shifted(sigmas: Floats, shift: float) -> Floats:
    """Return sigmas in [0, 1] moved towards noise: Esser et al. (2024), eq. 23."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def beta(low: float, high: float, steps: int, a: float = 0.6, b: float = 0.6) -> Floats:
    """Return ``steps`` sigmas from ``high`` down to ``low`` at quantiles of a beta distribution.

    Lee et al. (2024, arXiv:2407.12173), "Beta sampling is all you need".
    """
    return low + (high - low) * _beta_quantile(1 - np.linspace(0, 1, steps), a, b)


def _beta_quantile(p: Floats, a: float, b: float) -> Floats:
    """Return x with I_x(a, b) = p by bisection; 60 halvings leave nothing of a double's 53 bits."""
    lower, upper = np.zeros_like(p), np.ones_like(p)
    for _ in range(60):
        middle = (lower + upper) / 2
        below = _beta_cdf(middle, a, b) < p
        lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
    middle = (lower + upper) / 2
    return np.where(p <= 0, 0.0, np.where(p >= 1, 1.0, middle))


def _beta_cdf(x: Floats, a: float, b: float) -> Floats:
    """The regularised incomplete beta function (Abramowitz and Stegun, 26.5.8: a continued fraction)."""
    swap = x > (a + 1) / (a + b + 2)  # the fraction converges fast on one side; the other is its mirror
    z = np.where(swap, 1 - x, x)
    p, q = np.where(swap, b, a), np.where(swap, a, b)
    fraction = np.ones_like(z)
    for m in range(60, 0, -1):
        even = m * (q - m) * z / ((p + 2 * m - 1) * (p + 2 * m))
        odd = -(p + m) * (p + q + m) * z / ((p + 2 * m) * (p + 2 * m + 1))
        fraction = 1 + even / (1 + odd / fraction)
    fraction = 1 - (p + q) * z / (p + 1) / fraction
    whole = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    with np.errstate(divide="ignore"):
        front = np.exp(whole + p * np.log(z) + q * np.log1p(-z)) / p
    value = front / fraction
    result: Floats = np.where(swap, 1 - value, value)
    return result


def timestep_of(sigmas: Floats, table: Floats) -> Floats:
    """Return the fractional timesteps of ``sigmas`` by interpolating log sigma in the training table."""
    logs = np.log(table)
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), logs, np.arange(len(table), dtype=np.float64))


def whole_timesteps(sigmas: Floats, table: Floats, rounded: bool) -> Floats:
    """Return the timesteps of ``sigmas`` as whole numbers, rounded or else cut off.

    ``table`` is :func:`sigma_table32`. Its logarithms are float32 in diffusers and those of ``sigmas`` are
    not, so the noisiest sigma may come out a hair below its own timestep, 999, and be cut to 998; which it is
    depends on the last bit. A table that does not rise everywhere (zero SNR) is searched from its noisy end.
    """
    logs = elementary.log(table).astype(np.float32)
    wanted = elementary.log(np.maximum(sigmas, 1e-10))
    # What is equal but for the rounding of float64 counts as equal, so that no machine decides otherwise.
    reached = logs.astype(np.float64) <= wanted[:, None] + 1e-13
    below = np.where(reached.any(axis=1), len(logs) - 1 - reached[:, ::-1].argmax(axis=1), 0)
    below = np.minimum(below, len(logs) - 2)
    part = (wanted - logs[below]) / (logs[below + 1] - logs[below]).astype(np.float64)
    times = below + np.clip(part, 0, 1)
    whole: Floats = np.round(times) if rounded else np.floor(times)
    return whole


def last_sigma(config: Config, products: Floats) -> float:
    """Return where the last hop ends: 0, or the sigma of the cleanest training step."""
    kind = config["final_sigmas_type"]
    if kind == "zero":
        return 0.0
    if kind == "sigma_min":
        return float(np.sqrt((1 - products[0]) / products[0]))
    raise BundleError(f"scheduler config: final_sigmas_type {kind!r} is unknown; use zero or sigma_min.")


def respaced(config: Config, sigmas: Floats, steps: int) -> Floats | None:
    """Return Karras, exponential or beta sigmas between the ends of ``sigmas``, or None where neither is
    configured.

    ``sigma_min`` and ``sigma_max`` of the configuration win over the ends.
    """
    low = config.get("sigma_min")
    high = config.get("sigma_max")
    low = float(sigmas[-1]) if low is None else float(low)
    high = float(sigmas[0]) if high is None else float(high)
    wanted = [k for k in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas") if config.get(k)]
    if len(wanted) > 1:
        raise BundleError(f"scheduler config: {' and '.join(wanted)} exclude each other; keep one.")
    if config.get("use_karras_sigmas"):
        return karras(low, high, steps)
    if config.get("use_exponential_sigmas"):
        return exponential(low, high, steps)
    if config.get("use_beta_sigmas"):
        return beta(low, high, steps)
    return None
