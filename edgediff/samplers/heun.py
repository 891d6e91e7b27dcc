"""Heun in sigma space (x = clean + sigma * noise): Karras et al. (2022), algorithm 1 without churn."""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.denoise import Limit
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import euler
from edgediff.samplers._levels import refuse
from edgediff.schedule import Config, Point, Request, Schedule

# sigma_min and sigma_max are Euler's; diffusers reads them here too where a configuration file has them.
DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear",
    "trained_betas": None, "prediction_type": "epsilon", "use_karras_sigmas": False,
    "use_exponential_sigmas": False, "use_beta_sigmas": False, "clip_sample": False, "clip_sample_range":
    1.0, "timestep_spacing": "linspace", "steps_offset": 0, "sigma_min": None, "sigma_max": None,
}  # fmt: skip
SUPPORTED = {"prediction_type": ("epsilon", "v_prediction", "sample")}


def schedule(config: Config, request: Request) -> Schedule:
    """Euler's schedule; a hop calls the network at both of its points, the last one at its first alone."""
    refuse(request, "sigmas")
    return euler.schedule({**euler.DEFAULTS, **config}, request)


def sampler(config: Config) -> Sampler:
    """Return Heun's method: an Euler step, then the same step with the mean of both ends' slopes."""
    limit = Limit("clip", (float(config["clip_sample_range"]),)) if config["clip_sample"] else None

    def heun(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        def clean_at(x: Array, at: Point) -> Array:
            return denoise(x, at) if limit is None else limit(denoise(x, at))

        for i, (here, there) in enumerate(schedule.hops):
            clean = clean_at(x, here)
            ratio = there.sigma / here.sigma
            x = ratio * x + (1 - ratio) * clean
            if there.sigma > 0:
                # What the mean of both slopes, (x - clean) / sigma, adds to the slope at the first end; in
                # this form nothing of the size of x cancels.
                first, clean = clean, clean_at(x, there)
                x = x + ((1 / ratio - 1) / 2) * (clean - first)
            yield Step(i, x, clean)

    return heun
