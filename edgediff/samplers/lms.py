"""Linear multistep in sigma space (x = clean + sigma * noise): Adams and Bashforth's method on uneven levels.

The slope of the ordinary differential equation (Karras et al., 2022, eq. 1 and 3) is replaced by the
polynomial through its last values, and that is integrated from this level to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from numpy.polynomial import polynomial

from edgediff.errors import BundleError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import euler
from edgediff.samplers._levels import refuse
from edgediff.schedule import Config, Request, Schedule

# sigma_min and sigma_max are Euler's; diffusers reads them here too where a configuration file has them,
# but not for Karras sigmas.
DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas":
    False, "prediction_type": "epsilon", "timestep_spacing": "linspace", "steps_offset": 0, "sigma_min":
    None, "sigma_max": None, "order": 4,
}  # fmt: skip
SUPPORTED = {"prediction_type": ("epsilon", "v_prediction", "sample")}


def schedule(config: Config, request: Request) -> Schedule:
    """Euler's schedule."""
    refuse(request, "timesteps", "sigmas")
    ends = {"sigma_min": None, "sigma_max": None} if config["use_karras_sigmas"] else {}
    return euler.schedule({**euler.DEFAULTS, **config, **ends}, request)


def weights(levels: Sequence[float], end: float) -> list[float]:
    """Return the integral of each Lagrange polynomial of ``levels``, from the first of them to ``end``."""
    step = end - levels[0]
    nodes = [(level - levels[0]) / step for level in levels]
    integrals = []
    for k, node in enumerate(nodes):
        others = nodes[:k] + nodes[k + 1 :]
        whole = polynomial.polyval(1.0, polynomial.polyint(polynomial.polyfromroots(others)))
        integrals.append(step * float(whole) / math.prod(node - other for other in others))
    return integrals


def _levels(config: Config, walk: Schedule) -> list[float]:
    """Return the sigmas where the network is called, those of the hops that were cut off before included."""
    before = schedule(config, Request(walk.total)).hops[: walk.skipped]
    return [here.sigma for here, _ in (*before, *walk.hops)]


def sampler(config: Config) -> Sampler:
    """Return the linear multistep sampler; it draws no noise."""
    order = config["order"]
    if type(order) is not int or not 1 <= order <= 8:
        raise BundleError(f"scheduler config: order is {order!r}; it must be a whole number from 1 to 8.")

    def lms(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        slopes: list[Array] = []
        # A walk that starts part way has the weights of its place in the whole, as diffusers has, although
        # the slopes that most of them belong to were never computed.
        levels = _levels(config, schedule)
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here)
            last = schedule.skipped + i
            first, *rest = weights(levels[max(last + 1 - order, 0) : last + 1][::-1], there.sigma)
            slope = (x - clean) / here.sigma
            share = first / here.sigma  # x + first * slope, without the difference of large numbers
            x = (1 + share) * x - share * clean
            for weight, before in zip(rest, slopes, strict=False):
                x = x + weight * before
            slopes = [slope, *slopes][: order - 1]
            yield Step(i, x, clean)

    return lms
