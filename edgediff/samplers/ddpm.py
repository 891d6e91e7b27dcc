"""DDPM, ancestral sampling: Ho, Jain and Abbeel (2020), eq. 6 and 7 and section 3.2."""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.denoise import limit_of
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers._levels import points, refuse, whole_timesteps
from edgediff.schedule import Config, Point, Request, Schedule, chained

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "variance_type": "fixed_small", "clip_sample": True, "prediction_type":
    "epsilon", "thresholding": False, "dynamic_thresholding_ratio": 0.995, "clip_sample_range": 1.0,
    "sample_max_value": 1.0, "timestep_spacing": "leading", "steps_offset": 0, "rescale_betas_zero_snr":
    False,
}  # fmt: skip
SUPPORTED = {
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}


def schedule(config: Config, request: Request) -> Schedule:
    """Hops go from each timestep to the next one of the list, and from the last to the clean sample."""
    refuse(request, "sigmas")
    point = points(config)
    return Schedule(1.0, chained([*map(point, whole_timesteps(config, request)), Point(-1.0, 1.0, 0.0)]))


def sampler(config: Config) -> Sampler:
    """Return DDPM: the posterior's mean given the clean prediction, plus noise of a fixed variance.

    ``fixed_small`` is the posterior's variance, ``fixed_large`` the forward step's. A logarithm in the name
    is only another way of computing the same (diffusers' own ``fixed_large_log`` is NaN).
    """
    large = str(config["variance_type"]).startswith("fixed_large")
    limit = limit_of(config)

    def ddpm(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here) if limit is None else limit(denoise(x, here))
            alpha = here.alpha / there.alpha
            beta = 1 - alpha**2
            kept = (there.sigma / here.sigma) ** 2
            x = (there.alpha * beta / here.sigma**2) * clean + (alpha * kept) * x
            # The timestep decides, not the place: a list that ends above 0 ends with noise (fixed_large).
            if here.t > 0:
                variance = beta if large else kept * beta
                x = x + max(variance, 0.0) ** 0.5 * noise.draw(x.shape)
            yield Step(i, x, clean)

    return ddpm
