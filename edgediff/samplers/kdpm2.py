"""DPM-Solver-2 in sigma space (x = clean + sigma * noise): Lu et al. (2022, arXiv:2206.00927), algorithm 1.

The slope halfway between two levels, in log sigma, carries the sample all the way: a midpoint rule.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import euler
from edgediff.samplers._levels import refuse
from edgediff.schedule import Config, Floats, Point, Request, Schedule, alphas_cumprod
from edgediff.sigmas import sigma_table, timestep_of

# sigma_min and sigma_max are Euler's; diffusers reads them here too where a configuration file has them.
DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear",
    "trained_betas": None, "use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas":
    False, "prediction_type": "epsilon", "timestep_spacing": "linspace", "steps_offset": 0, "sigma_min":
    None, "sigma_max": None,
}  # fmt: skip
SUPPORTED = {"prediction_type": ("epsilon", "v_prediction")}


def schedule(config: Config, request: Request) -> Schedule:
    """Euler's schedule, with the timesteps of Karras sigmas rounded; the network is called halfway too."""
    refuse(request, "timesteps", "sigmas")
    whole = euler.schedule({**euler.DEFAULTS, **config}, request)
    if not config["use_karras_sigmas"]:
        return whole
    hops = [[at._replace(t=float(round(at.t))) for at in hop] for hop in whole.hops]
    return whole._replace(hops=tuple((here, there) for here, there in hops))


def table_of(config: Config) -> Floats:
    """Return the sigmas of the training timesteps, which tell the network where halfway is."""
    return sigma_table(alphas_cumprod(config), False)


def midpoint(denoise: Denoiser, x: Array, here: Point, sigma: float, table: Floats) -> tuple[Array, Array]:
    """Return the sample at ``sigma`` and the clean prediction used; one call if that is 0, else two."""
    first = denoise(x, here)
    whole = sigma / here.sigma
    there = whole * x + (1 - whole) * first
    if sigma == 0:
        return there, first
    between = (here.sigma * sigma) ** 0.5
    half = Point(float(timestep_of(np.asarray([between]), table)[0]), 1.0, between)
    ratio = between / here.sigma
    clean = denoise(ratio * x + (1 - ratio) * first, half)
    # x + (sigma - here.sigma) * the slope halfway; in this form nothing of the size of x cancels.
    return there + ((1 - whole) / ratio) * (clean - first), clean


def sampler(config: Config) -> Sampler:
    """Return the midpoint sampler; it draws no noise."""
    table = table_of(config)

    def kdpm2(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            x, clean = midpoint(denoise, x, here, there.sigma, table)
            yield Step(i, x, clean)

    return kdpm2
