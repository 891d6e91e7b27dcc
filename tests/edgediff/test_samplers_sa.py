"""SA-Solver against diffusers' scheduler, in float64 where float32 is not enough for diffusers itself."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.errors import BundleError, InputError, UnsupportedError
from edgediff.noise import TorchNoise
from edgediff.schedule import Request
from tests.edgediff.test_samplers_exact import CONFIG, MEAN, SPREAD, error, ideal
from tests.edgediff.test_samplers_unipc import (
    FLOW,
    PREDICTIONS,
    SPACINGS,
    STEPS,
    V,
    cut_off,
    loop,
    off,
    start,
)
from tests.sampler_parity import BASE, SHAPE, compare, ours, worst

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

NAME = "SASolverScheduler"
NOISE = {"algorithm_type": "noise_prediction"}


@pytest.mark.parametrize(("prediction", "spacing"), list(itertools.product(PREDICTIONS, SPACINGS)))
def test_predictions_and_spacings(prediction: str, spacing: str) -> None:
    config = {**BASE, "prediction_type": prediction, "timestep_spacing": spacing}
    for (predictor, corrector), steps in itertools.product(((1, 1), (2, 2), (1, 2), (2, 1)), STEPS):
        orders = {"predictor_order": predictor, "corrector_order": corrector}
        assert compare(NAME, {**config, **orders}, steps) < 1e-5, (orders, steps)
        if prediction == "epsilon":
            assert compare(NAME, {**config, **orders, **NOISE}, steps) < 1e-5, (orders, steps)


@pytest.mark.parametrize(
    ("algorithm", "prediction"), list(itertools.product(({}, NOISE), PREDICTIONS)), ids=str
)
def test_where_float32_is_not_enough_for_diffusers(algorithm: dict[str, Any], prediction: str) -> None:
    """Its integrals cancel from order 3 on (up to 1e-2 off at order 4), and so do its noise predictions where
    the network gives something else; its formulas in float64 agree with ours."""
    config = {**BASE, **algorithm, "prediction_type": prediction}
    high, low = ((3, 3), (4, 4), (3, 4), (1, 4)), ((1, 1), (2, 2), (2, 1))
    for (predictor, corrector), steps in itertools.product(
        high + (low if algorithm else ()), (1, 2, 7, 20, 30)
    ):
        orders = {"predictor_order": predictor, "corrector_order": corrector}
        single, double = off(NAME, {**config, **orders}, steps)
        assert single < 1e-5 and double < 5e-6, (orders, steps)


OPTIONS: list[dict[str, Any]] = [
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    {"lambda_min_clipped": -2.0, "timestep_spacing": "trailing"},
    {"lambda_min_clipped": -2.0, "timestep_spacing": "leading", "steps_offset": 1},
    {"trained_betas": [0.0005 * (i + 1) for i in range(100)], "num_train_timesteps": 100},
    {"use_karras_sigmas": True},
    {"use_karras_sigmas": True, **NOISE},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True, **V},
    {"lower_order_final": False},
    {"lower_order_final": False, "use_karras_sigmas": True},
    {"thresholding": True, "sample_max_value": 1.5},
    {"variance_type": "fixed_small"},
    FLOW,
    {**FLOW, "flow_shift": 3.0},
    {**FLOW, "flow_shift": 3.0, "predictor_order": 3, "corrector_order": 3},
    {"use_flow_sigmas": True},
    {"use_flow_sigmas": True, **V},
    {"use_flow_sigmas": True, "prediction_type": "sample", "flow_shift": 0.5},
]


@pytest.mark.parametrize("extra", OPTIONS, ids=lambda v: str(v)[:90])
def test_options(extra: dict[str, Any]) -> None:
    for steps in STEPS:
        assert compare(NAME, {**BASE, **extra}, steps) < 1e-5, steps


FEW_DIGITS: list[dict[str, Any]] = [
    {"use_beta_sigmas": True},
    {"use_beta_sigmas": True, **NOISE},
    {"use_exponential_sigmas": True, **NOISE, "lower_order_final": False},
    {"use_flow_sigmas": True, **NOISE},
]


@pytest.mark.parametrize("extra", FEW_DIGITS, ids=str)
def test_options_that_lose_digits_in_float32(extra: dict[str, Any]) -> None:
    """Both sides do, by dividing by small numbers or summing large ones; in float64 they agree."""
    for steps in STEPS:
        assert off(NAME, {**BASE, **extra}, steps)[1] < 1e-6, steps


def test_tau() -> None:
    """diffusers takes a function of the timestep; ours has its height and its ends."""
    import diffusers
    import torch

    for tau, (low, high), algorithm in itertools.product(
        (0.0, 0.4, 1.3), ((200, 800), (0, 999), (901, 950)), ("data_prediction", "noise_prediction")
    ):
        scheduler = getattr(diffusers, NAME)(
            **BASE,
            algorithm_type=algorithm,
            tau_func=lambda t, v=(tau, low, high): v[0] * (v[1] <= t <= v[2]),
        )
        config = {**scheduler.config, "_class_name": NAME, "tau_func": None}
        for steps in (3, 10, 20):
            scheduler.set_timesteps(steps)
            got = ours(config, None, start(), Request(steps), tau=tau, tau_start=low, tau_end=high)
            expected = loop(scheduler, torch.from_numpy(start()), scheduler.timesteps)
            assert worst(got, expected) < 1e-5, (tau, low, high, algorithm, steps)


@pytest.mark.parametrize("extra", [{}, {"corrector_order": 1}, {"lower_order_final": False}], ids=str)
def test_cut_schedules(extra: dict[str, Any]) -> None:
    for steps in (4, 7, 20):
        for skipped in (1, 2, steps - 1):
            assert cut_off(NAME, {**BASE, **extra}, steps, skipped) < 1e-5, (steps, skipped)


@pytest.mark.parametrize("algorithm", ["data_prediction", "noise_prediction"])
def test_order_of_convergence(algorithm: str) -> None:
    """Without noise, for normally distributed data; the corrector's order counts the new prediction too."""
    for predictor, corrector in ((1, 1), (2, 2), (1, 2), (2, 3)):
        options = {"predictor_order": predictor, "corrector_order": corrector, "algorithm_type": algorithm}
        coarse, fine = (
            error("sa_solver", steps, tau=0.0, lower_order_final=False, **options) for steps in (64, 128)
        )
        assert math.log2(coarse / fine) > max(predictor, corrector) - 0.2, (predictor, corrector)


def test_noise_keeps_the_variance() -> None:
    """With the ideal denoiser the end has the data's mean and deviation, however stochastic the solver is."""
    for tau in (0.5, 1.0, 1.5):
        solver = samplers.find(
            CONFIG, "sa_solver", tau=tau, tau_start=0, tau_end=1000, use_karras_sigmas=True
        )
        noise = TorchNoise(1)
        for step in solver.sampler(ideal, noise.draw((1, 20000)), solver.schedule(Request(60)), noise):
            last = step.x
        assert abs(float(last.mean()) - MEAN) < 0.02
        assert abs(float(last.std()) - SPREAD) < 0.02


def test_one_draw_per_hop_and_nothing_is_overwritten() -> None:
    """The caller may write into a step's sample: what was predicted before stays."""

    class Counting(TorchNoise):
        draws = 0

        def draw(self, shape: tuple[int, ...]) -> np.ndarray:
            self.draws += 1
            return super().draw(shape)

    solver = samplers.find(CONFIG, "sa_solver", tau=0.0)
    noise = Counting(0)
    kept = []
    for step in solver.sampler(lambda x, at: 0.5 * x, start(), solver.schedule(Request(5)), noise):
        kept.append(step.clean.copy())
        step.x[...] = step.x.copy()
    assert noise.draws == 5 and len(kept) == 5 and kept[0].shape == SHAPE


def test_what_is_refused() -> None:
    def plan(request: Request = Request(4), **config: Any) -> Any:  # noqa: B008
        return samplers.find({"_class_name": NAME, **config}).schedule(request)

    for wrong in (
        {"predictor_order": 5}, {"corrector_order": 0}, {"algorithm_type": "dpmsolver++"},
        {"prediction_type": "flow_prediction"}, {"use_flow_sigmas": True, "use_karras_sigmas": True},
        {"use_karras_sigmas": True, "use_beta_sigmas": True},
    ):  # fmt: skip
        with pytest.raises(BundleError):
            plan(**wrong)
    for request in (Request(4, timesteps=(999, 500)), Request(4, sigmas=(10.0, 0.5)), Request(1200)):
        with pytest.raises(InputError):
            plan(request)
    refused: list[dict[str, Any]] = [{"variance_type": "learned_range"}, {"prediction_type": "trigflow"}]
    for unsupported in refused:
        with pytest.raises(UnsupportedError):
            plan(**unsupported)
