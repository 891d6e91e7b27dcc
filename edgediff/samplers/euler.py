"""Euler in sigma space: Karras et al. (2022), algorithm 1 without churn.

Samples are scaled as ``x = clean + sigma * noise`` (alpha = 1); :mod:`edgediff.denoise` rescales what a
variance-preserving network sees.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgediff.errors import BundleError, InputError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.schedule import (
    Config,
    Floats,
    Point,
    Request,
    Schedule,
    alphas_cumprod,
    chained,
    checked_timesteps,
    spaced,
)
from edgediff.sigmas import exponential, last_sigma, respaced, sigma_table, timestep_of

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "prediction_type": "epsilon", "interpolation_type": "linear",
    "use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False, "sigma_min":
    None, "sigma_max": None, "timestep_spacing": "linspace", "timestep_type": "discrete", "steps_offset":
    0, "rescale_betas_zero_snr": False, "final_sigmas_type": "zero",
}  # fmt: skip
SUPPORTED = {
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_type": ("discrete", "continuous"),
}
SHAPES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def schedule(config: Config, request: Request) -> Schedule:
    """Sigmas by interpolation in the training table, or Karras, exponential or beta between the ends of the
    spaced ones."""
    products = alphas_cumprod(config)
    table = sigma_table(products, bool(config["rescale_betas_zero_snr"]))
    times, sigmas = _levels(config, request, table)
    if len(sigmas) == len(times):
        sigmas = np.append(sigmas, last_sigma(config, products))
    if _continuous(config):
        times = 0.25 * np.log(sigmas[:-1])
    points = [Point(float(t), 1.0, float(s)) for t, s in zip([*times, 0.0], sigmas, strict=True)]
    highest = float(np.max(sigmas))
    start = highest if config["timestep_spacing"] in ("linspace", "trailing") else (highest**2 + 1) ** 0.5
    return Schedule(start, chained(points))


def _continuous(config: Config) -> bool:
    """Whether the network is told log(sigma) / 4; diffusers does so for v-prediction alone."""
    return bool(config["timestep_type"] == "continuous" and config["prediction_type"] == "v_prediction")


def _levels(config: Config, request: Request, table: Floats) -> tuple[Floats, Floats]:
    """Return the timesteps told to the network and their sigmas; one sigma more where the list has its own
    end."""
    if request.sigmas is not None:
        sigmas = np.asarray(request.sigmas, np.float64)
        if (
            len(sigmas) < 2
            or not np.all(np.diff(sigmas) < 0)
            or sigmas[-1] < 0
            or not np.all(np.isfinite(sigmas))
        ):
            raise InputError(
                f"sigmas: {request.sigmas} must be at least two falling numbers, the last one 0 or more."
            )
        return timestep_of(sigmas[:-1], table), sigmas
    if request.timesteps is not None:
        if _continuous(config) or any(config[key] for key in SHAPES):
            raise InputError(
                "timesteps: they cannot be combined with Karras, exponential or beta sigmas, nor with "
                "timestep_type continuous; drop one."
            )
        times = np.asarray(checked_timesteps(request.timesteps, len(table), whole=False))
    else:
        times = spaced(config, request.steps)
    count = len(times)
    if config["interpolation_type"] == "linear":
        sigmas = np.interp(times, np.arange(len(table)), table)
    elif config["interpolation_type"] == "log_linear":
        sigmas = exponential(float(table[0]), float(table[-1]), count + 1)
    else:
        raise BundleError(
            f"scheduler config: interpolation_type {config['interpolation_type']!r} is unknown."
        )
    shaped = respaced(config, sigmas, count)
    return (times, sigmas) if shaped is None else (timestep_of(shaped, table), shaped)


def sampler(config: Config) -> Sampler:
    """Return the Euler sampler; it draws no noise."""

    def euler(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here)
            ratio = there.sigma / here.sigma
            x = ratio * x + (1 - ratio) * clean
            yield Step(i, x, clean)

    return euler
