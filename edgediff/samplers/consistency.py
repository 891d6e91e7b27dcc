"""Consistency models, multistep sampling: Song et al. (2023, arXiv:2303.01469), algorithm 1.

Samples are scaled as ``x = clean + sigma * noise``. The network sees them scaled to unit variance and is told
250 * log(sigma); eq. 5 and appendix C turn its output into the clean sample, exactly so at ``sigma_min``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edgediff.denoise import Conversion, Form, Limit
from edgediff.errors import BundleError, InputError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers._levels import refuse
from edgediff.schedule import Config, Point, Request, Schedule, chained, checked_timesteps

DEFAULTS = {
    "num_train_timesteps": 40, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "s_noise": 1.0,
    "rho": 7.0, "clip_denoised": True,
}  # fmt: skip
SUPPORTED: dict[str, tuple[object, ...]] = {}


def schedule(config: Config, request: Request) -> Schedule:
    """Levels are some of the num_train_timesteps of Karras et al. (2022), eq. 5, and sigma_min is the end.

    diffusers counts a custom timestep from the cleanest level when it checks the list and from the noisiest
    when it walks: [22, 0] are the noisiest level and the 22nd after it.
    """
    refuse(request, "sigmas")
    total, rho = config["num_train_timesteps"], float(config["rho"])
    low, high = float(config["sigma_min"]), float(config["sigma_max"])
    if type(total) is not int or total < 2 or not 0 < low < high:
        raise BundleError(
            f"scheduler config: num_train_timesteps {total!r}, sigma_min {low:g}, sigma_max {high:g}; there "
            "must be 2 levels or more, from sigma_min > 0 up to sigma_max."
        )
    if request.timesteps is not None:
        places = np.asarray(checked_timesteps(request.timesteps, total))[::-1]
    elif request.steps > total:
        raise InputError(f"steps: {request.steps} were asked for, but this model knows {total} levels.")
    else:
        places = np.arange(request.steps) * (total // request.steps)
    ends = high ** (1 / rho), low ** (1 / rho)
    sigmas = (ends[0] + places / (total - 1) * (ends[1] - ends[0])) ** rho
    points = [Point(250 * math.log(s), 1.0, s) for s in [*map(float, sigmas), low]]
    return Schedule(high, chained(points))


def conversion(config: Config) -> Conversion:
    """Appendix C of the paper: the network's share is 0 at ``sigma_min``."""
    data, low = float(config["sigma_data"]), float(config["sigma_min"])

    def form(at: Point) -> Form:
        radius = math.hypot(at.sigma, data)
        above = at.sigma - low
        return Form(1 / radius, data**2 / (above**2 + data**2), above * data / radius)

    return form


def sampler(config: Config) -> Sampler:
    """Return multistep consistency sampling: predict, then noise again.

    One draw per hop, at the last one for nothing; none if the whole schedule is one hop.
    """
    low, high, s_noise = (float(config[key]) for key in ("sigma_min", "sigma_max", "s_noise"))
    limit = Limit("clip", (1.0,)) if config["clip_denoised"] else None

    def consistency(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here) if limit is None else limit(denoise(x, here))
            x = clean
            if schedule.total > 1:
                sigma = min(max(there.sigma, low), high)
                x = clean + s_noise * (sigma**2 - low**2) ** 0.5 * noise.draw(x.shape)
            yield Step(i, x, clean)

    return consistency
