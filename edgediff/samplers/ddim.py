"""DDIM: Song, Meng and Ermon (2021), eq. 12 and 16."""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.denoise import limit_of
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers._levels import points, refuse, whole_timesteps
from edgediff.schedule import Config, Point, Request, Schedule

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "clip_sample": True, "set_alpha_to_one": True, "steps_offset": 0,
    "prediction_type": "epsilon", "thresholding": False, "dynamic_thresholding_ratio": 0.995,
    "clip_sample_range": 1.0, "sample_max_value": 1.0, "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False, "eta": 0.0, "use_clipped_model_output": False,
}  # fmt: skip
SUPPORTED = {"prediction_type": ("epsilon", "v_prediction", "sample")}


def schedule(config: Config, request: Request) -> Schedule:
    """Hops go from t to t - T // n, which need not be the next entry of the list (as diffusers walks it)."""
    refuse(request, "sigmas")
    times = whole_timesteps(config, request)
    stride = config["num_train_timesteps"] // len(times)
    point = points(config)
    return Schedule(1.0, tuple((point(t), point(t - stride)) for t in times))


def sampler(config: Config) -> Sampler:
    """Return DDIM with the configuration's ``eta`` (0: deterministic, 1: DDPM's variance) and clipping."""
    eta = float(config["eta"])
    limit = limit_of(config)

    def ddim(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        for i, (here, there) in enumerate(schedule.hops):
            raw = denoise(x, here)
            clean = raw if limit is None else limit(raw)
            spread = eta * _deviation(here, there)
            direction = max(there.sigma**2 - spread**2, 0.0) ** 0.5 / here.sigma
            # The direction to x_t is that of the unclipped prediction, unless the option asks for the other:
            # eps = (x - alpha * towards) / sigma.
            towards = clean if config["use_clipped_model_output"] else raw
            x = direction * x + (-direction * here.alpha) * towards + there.alpha * clean
            if eta > 0:
                x = x + spread * noise.draw(x.shape)
            yield Step(i, x, clean)

    return ddim


def _deviation(here: Point, there: Point) -> float:
    """Eq. 16 with eta = 1, in alpha-bars."""
    ratio = (here.alpha / there.alpha) ** 2
    variance = (there.sigma / here.sigma) ** 2 * (1 - ratio)
    return float(max(variance, 0.0) ** 0.5)
