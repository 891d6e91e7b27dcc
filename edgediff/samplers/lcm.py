"""Latent consistency models, multistep sampling: Luo et al. (2023, arXiv:2310.04378), algorithm 3."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgediff.denoise import limit_of
from edgediff.errors import BundleError, InputError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers._levels import points, refuse
from edgediff.schedule import Config, Point, Request, Schedule, chained, checked_timesteps

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule":
    "scaled_linear", "trained_betas": None, "original_inference_steps": 50, "clip_sample": False,
    "clip_sample_range": 1.0, "set_alpha_to_one": True, "steps_offset": 0, "prediction_type": "epsilon",
    "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
    "timestep_spacing": "leading", "timestep_scaling": 10.0, "rescale_betas_zero_snr": False,
}  # fmt: skip
SUPPORTED = {"prediction_type": ("epsilon", "v_prediction", "sample")}
SIGMA_DATA = 0.5


def timesteps(config: Config, request: Request) -> tuple[float, ...]:
    """Return timesteps of the distillation's grid: every (T // original_inference_steps)-th, less one.

    A strength below 1 leaves the noisiest part of the grid out; of custom timesteps, the first ones.
    """
    total, original = config["num_train_timesteps"], config["original_inference_steps"]
    if type(original) is not int or not 1 <= original <= total:
        raise BundleError(
            f"scheduler config: original_inference_steps is {original!r}; it must be a whole number from 1 "
            f"to {total}."
        )
    if request.timesteps is not None:
        times = checked_timesteps(request.timesteps, total)
        count = int(len(times) * request.strength)
        if count < 1:
            raise InputError(
                f"strength: {request.strength:g} leaves none of {len(times)} timesteps; ask for more."
            )
        return times[len(times) - count :]
    count = int(original * request.strength)
    if request.steps > count:
        raise InputError(
            f"steps: {request.steps} were asked for, but this model was distilled on {original}, of which "
            f"strength {request.strength:g} leaves {count}; ask for at most that."
        )
    grid = np.arange(count, 0, -1) * (total // original) - 1
    chosen = np.floor(np.linspace(0, count, request.steps, endpoint=False)).astype(int)
    return tuple(float(t) for t in grid[chosen])


def schedule(config: Config, request: Request) -> Schedule:
    """The last hop ends at the clean sample."""
    refuse(request, "sigmas")
    if request.timesteps is not None and request.strength < 1:
        # diffusers leaves the last sample of such a walk as noisy as the one before.
        raise InputError("timesteps: they cannot be combined with a strength; give those to be walked alone.")
    return Schedule(1.0, chained([*map(points(config), timesteps(config, request)), Point(0.0, 1.0, 0.0)]))


def sampler(config: Config) -> Sampler:
    """Return LCM sampling: predict, then noise again to the next level; one draw per hop but the last."""
    scaling = float(config["timestep_scaling"])
    limit = limit_of(config)

    def lcm(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here) if limit is None else limit(denoise(x, here))
            scaled = here.t * scaling
            skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
            out = scaled / (scaled**2 + SIGMA_DATA**2) ** 0.5
            clean = out * clean + skip * x
            x = clean if there.sigma == 0 else there.alpha * clean + there.sigma * noise.draw(x.shape)
            yield Step(i, x, clean)

    return lcm
