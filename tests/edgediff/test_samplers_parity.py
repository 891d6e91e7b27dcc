"""Samplers against diffusers' schedulers: same configuration, same noise, a non-linear stand-in for the
network."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.noise import TorchNoise
from edgediff.schedule import Request
from tests.sampler_parity import BASE, SHAPE, STEPS, compare, network, ours, worst

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

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
    for steps in (1, 2, 3, 4, 7, 8, 20, 30):
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


@pytest.mark.parametrize("count", [1, 2, 3, 100, 999, 1000])
def test_betas_have_pytorchs_bits(count: int) -> None:
    import torch

    from edgediff.schedule import _linspace32

    for start, end in ((1e-4, 0.02), (0.00085**0.5, 0.012**0.5), (0.0015**0.5, 0.0195**0.5)):
        expected = torch.linspace(start, end, count, dtype=torch.float32).numpy()
        assert np.array_equal(_linspace32(start, end, count), expected)


FEW_STEPS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("SD-Turbo", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, {}),
    ("SDXL-Turbo", "EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, {}),
    ("Lightning", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, {}),
    ("Lightning, one step", "EulerDiscreteScheduler",
     {"timestep_spacing": "trailing", "prediction_type": "sample"}, {}),
    ("Hyper-SD", "TCDScheduler", {}, {"eta": 1.0}),
    ("Hyper-SD by DDIM", "DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}, {}),
    ("Hyper-SD, one step", "LCMScheduler", {}, {"timesteps": [800]}),
    ("TCD-LoRA", "TCDScheduler", {}, {"eta": 0.3}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "class_name", "extra", "options"), FEW_STEPS, ids=lambda v: str(v)[:40])
def test_settings_of_few_step_models(
    name: str, class_name: str, extra: dict[str, Any], options: dict[str, Any]
) -> None:
    for steps in (1, 2, 4, 8):
        assert compare(class_name, {**BASE, **extra}, steps, **options) < 1e-5, (name, steps)


@pytest.mark.parametrize(("steps", "expected"), [(1, [999]), (2, [999, 499]), (4, [999, 749, 499, 249])])
def test_turbo_asks_for_the_timesteps_it_was_distilled_on(steps: int, expected: list[int]) -> None:
    config = {**BASE, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
    schedule = samplers.find(config).schedule(Request(steps))
    assert [here.t for here, _ in schedule.hops] == expected
    assert schedule.start == pytest.approx(14.6146, abs=1e-4)
