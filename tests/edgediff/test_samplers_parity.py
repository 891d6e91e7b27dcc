"""Samplers against diffusers' schedulers: same configuration, same noise, a non-linear stand-in for the
network."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from edgediff import denoise as wrap
from edgediff import sampler as samplers
from edgediff.noise import TorchNoise
from edgediff.schedule import Request

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

BASE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 4, 8, 8)
STEPS = (1, 2, 3, 4, 7, 10, 20, 30)


def network(x: Any, t: Any, xp: Any) -> Any:
    """Bounded, non-linear in x and smooth in t, as trained networks are."""
    return xp.tanh(1.3 * x) * (0.6 + 0.3 * xp.cos(t / 300.0)) - 0.2 * xp.sin(2.1 * x)


def reference(scheduler: Any, x: np.ndarray, steps: int, **options: Any) -> np.ndarray:
    """diffusers' own loop, as its pipelines write it."""
    custom = {k: options.pop(k) for k in ("timesteps", "sigmas") if k in options}
    scheduler.set_timesteps(**custom) if custom else scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(7)
    sample = (
        torch.from_numpy(x) * scheduler.init_noise_sigma
        if hasattr(scheduler, "init_noise_sigma")
        else torch.from_numpy(x)
    )
    if isinstance(scheduler, (diffusers.DDIMScheduler, diffusers.LCMScheduler)):
        options["generator"] = generator
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        out = network(scaled, t.to(torch.float32), torch)
        sample = scheduler.step(out, t, sample, **options, return_dict=False)[0]
    return sample.numpy()


def ours(
    config: dict[str, Any], name: str | None, x: np.ndarray, request: Request, **options: Any
) -> np.ndarray:
    solver = samplers.find(config, name, **options)
    schedule = solver.schedule(request)

    def raw(scaled: Any, at: Any) -> Any:
        return network(scaled, np.float32(at.t), np).astype(np.float32)

    denoise = wrap.denoiser(raw, solver.config["prediction_type"])
    result = x
    for step in solver.sampler(denoise, np.float32(schedule.start) * x, schedule, TorchNoise(7)):
        result = step.x
        assert result.dtype == np.float32
    return result


def worst(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def compare(class_name: str, config: dict[str, Any], steps: int, **options: Any) -> float:
    x = TorchNoise(3).draw(SHAPE)
    scheduler = getattr(diffusers, class_name)(**config)
    saved = {**scheduler.config, "_class_name": class_name}
    custom = {k: tuple(options[k]) for k in ("timesteps", "sigmas") if k in options}
    sampler_options = {k: v for k, v in options.items() if k not in custom}
    got = ours(saved, None, x, Request(steps, **custom), **sampler_options)
    return worst(got, reference(scheduler, x, steps, **options))


PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")


@pytest.mark.parametrize(("prediction", "spacing"), list(itertools.product(PREDICTIONS, SPACINGS)))
@pytest.mark.parametrize(
    "class_name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_predictions_and_spacings(class_name: str, prediction: str, spacing: str) -> None:
    config = {**BASE, "prediction_type": prediction, "timestep_spacing": spacing}
    if class_name == "DDIMScheduler":
        config["clip_sample"] = False
    for steps in STEPS:
        assert compare(class_name, config, steps) < 1e-5, steps


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_lcm(prediction: str) -> None:
    for steps in (1, 2, 3, 4, 7, 8, 20, 30, 50):
        assert compare("LCMScheduler", {**BASE, "prediction_type": prediction}, steps) < 1e-5, steps


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {"clip_sample": True, "clip_sample_range": 0.7}),
    ("DDIMScheduler", {"clip_sample": False, "thresholding": True, "sample_max_value": 1.5}),
    ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    ("DDIMScheduler", {"clip_sample": False, "beta_schedule": "linear"}),
    ("DDIMScheduler", {"clip_sample": False, "beta_schedule": "squaredcos_cap_v2"}),
    ("DDIMScheduler", {"clip_sample": False, "trained_betas": [0.0005 * (i + 1) for i in range(100)],
                       "num_train_timesteps": 100}),
    ("DDIMScheduler", {"clip_sample": False,
      "rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
                       "timestep_spacing": "trailing"}),
    ("DDIMScheduler", {"clip_sample": False, "rescale_betas_zero_snr": True,
                       "prediction_type": "v_prediction",
                       "timestep_spacing": "linspace"}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 10.0}),
    ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}),
    ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}),
    ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}),
    ("EulerDiscreteScheduler", {"steps_offset": 1, "timestep_spacing": "leading"}),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
    ("EulerDiscreteScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
                                "timestep_spacing": "leading"}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "prediction_type": "v_prediction"}),
    ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun"}),
    ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
    ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
    ("DPMSolverMultistepScheduler", {"euler_at_final": True, "final_sigmas_type": "sigma_min"}),
    ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -3.0}),
    ("DPMSolverMultistepScheduler", {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}),
    ("DPMSolverMultistepScheduler", {"thresholding": True, "sample_max_value": 2.0}),
    ("DPMSolverMultistepScheduler", {"steps_offset": 1, "timestep_spacing": "leading"}),
    ("LCMScheduler", {"clip_sample": True, "clip_sample_range": 0.5}),
    ("LCMScheduler", {"original_inference_steps": 100}),
    ("LCMScheduler", {"timestep_scaling": 1.0}),
    ("LCMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    ("FlowMatchEulerDiscreteScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
]  # fmt: skip


@pytest.mark.parametrize(("class_name", "extra"), OPTIONS, ids=lambda v: str(v)[:90])
def test_options(class_name: str, extra: dict[str, Any]) -> None:
    config = extra if class_name.startswith("Flow") else {**BASE, **extra}
    for steps in (1, 2, 3, 4, 7, 14, 15, 20, 30):
        assert compare(class_name, config, steps) < 1e-5, steps


def test_ddim_noise_is_drawn_where_diffusers_draws_it() -> None:
    for steps in STEPS:
        assert compare("DDIMScheduler", {**BASE, "clip_sample": False}, steps, eta=0.6) < 1e-5, steps


CUSTOM: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("EulerDiscreteScheduler", {}, {"timesteps": [999.0, 640.5, 320.0, 12.0]}),
    ("EulerDiscreteScheduler", {}, {"sigmas": [12.0, 5.0, 1.5, 0.3, 0.0]}),
    ("DPMSolverMultistepScheduler", {}, {"timesteps": [999, 640, 320, 12]}),
    ("LCMScheduler", {}, {"timesteps": [999, 639, 319, 19]}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {"sigmas": [1.0, 0.75, 0.5, 0.25]}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 2.0}, {"timesteps": [1000.0, 700.0, 100.0]}),
]


@pytest.mark.parametrize(("class_name", "extra", "custom"), CUSTOM, ids=lambda v: str(v)[:60])
def test_custom_steps(class_name: str, extra: dict[str, Any], custom: dict[str, Any]) -> None:
    config = extra if class_name.startswith("Flow") else {**BASE, **extra}
    assert compare(class_name, config, len(next(iter(custom.values()))), **custom) < 1e-5


def test_zero_snr_euler_agrees_with_float64() -> None:
    """At sigma = 4096 the reference's float32 arithmetic is the one that is off, so ours is held to
    float64."""
    config = {**BASE, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
              "timestep_spacing": "trailing", "_class_name": "EulerDiscreteScheduler"}  # fmt: skip
    x = TorchNoise(3).draw(SHAPE)
    for steps in STEPS:
        got = ours(config, None, x, Request(steps))
        assert worst(got, _euler_float64(config, x, steps)) < 1e-5, steps


def _euler_float64(config: dict[str, Any], x: np.ndarray, steps: int) -> np.ndarray:
    schedule = samplers.find(config).schedule(Request(steps))
    exact = schedule.start * x.astype(np.float64)
    for here, there in schedule.hops:
        radius = np.hypot(1.0, here.sigma)
        out = network(exact / radius, here.t, np)
        clean = exact / radius**2 - here.sigma / radius * out
        exact = exact + (exact - clean) / here.sigma * (there.sigma - here.sigma)
    return np.asarray(exact)
