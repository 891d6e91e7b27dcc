"""UniPC against diffusers' scheduler, in float64 where float32 is not enough for diffusers itself."""

from __future__ import annotations

import inspect
import itertools
import math
from typing import Any
from unittest import mock

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.errors import BundleError, InputError, UnsupportedError
from edgediff.noise import TorchNoise
from edgediff.schedule import Request
from tests.edgediff.test_samplers_exact import error
from tests.sampler_parity import BASE, SHAPE, Wide, compare, network, ours, walk, worst

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

NAME = "UniPCMultistepScheduler"
STEPS = (1, 2, 3, 4, 7, 10, 14, 15, 20, 30)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("linspace", "leading", "trailing")
V = {"prediction_type": "v_prediction"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def loop(scheduler: Any, sample: Any, timesteps: Any) -> np.ndarray:
    """diffusers' loop over ``timesteps``, in the precision of ``sample``."""
    import torch

    takes_noise = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(7)} if takes_noise else {}
    for t in timesteps:
        out = network(sample, t.to(sample.dtype), torch)
        sample = scheduler.step(out, t, sample, **options, return_dict=False)[0]
    return np.asarray(sample.numpy())


def in_float64(name: str, config: dict[str, Any], steps: int, last: float | None = None) -> np.ndarray:
    """The scheduler's own formulas with float64 numbers and the same noise; ``last`` replaces the last
    sigma."""
    import diffusers
    import torch
    from diffusers.schedulers import scheduling_sasolver

    def wide(shape: Any, generator: Any = None, device: Any = None, dtype: Any = None) -> Any:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)

    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    scheduler.sigmas = scheduler.sigmas.double()
    if last is not None:
        scheduler.sigmas[-1] = last
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(scheduling_sasolver, "randn_tensor", wide):
            return loop(scheduler, torch.from_numpy(start().astype(np.float64)), scheduler.timesteps)
    finally:
        torch.set_default_dtype(torch.float32)


def start() -> np.ndarray:
    return TorchNoise(3).draw(SHAPE)


def mine(name: str, config: dict[str, Any], steps: int, wide: bool = False, **options: Any) -> np.ndarray:
    """Our end for a configuration as the scheduler saves it, in float32 or float64."""
    import diffusers

    saved = {**getattr(diffusers, name)(**config).config, "_class_name": name}
    if not wide:
        return ours(saved, None, start(), Request(steps), **options)
    solver = samplers.find(saved, **options)
    return walk(solver, solver.schedule(Request(steps)), start().astype(np.float64), Wide(7))


def off(name: str, config: dict[str, Any], steps: int, last: float | None = None) -> tuple[float, float]:
    """How far our float32 and our float64 are from the scheduler's formulas in float64."""
    exact = in_float64(name, config, steps, last)
    return worst(mine(name, config, steps), exact), worst(mine(name, config, steps, wide=True), exact)


def cut_off(name: str, config: dict[str, Any], steps: int, skipped: int, calls: int = 1) -> float:
    """The gap when both start at a later hop from a picture and noise, as image2image does."""
    import diffusers
    import torch

    picture, noise = TorchNoise(5).draw(SHAPE), TorchNoise(6).draw(SHAPE)
    scheduler = getattr(diffusers, name)(**config)
    solver = samplers.find({**scheduler.config, "_class_name": name})
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(skipped * calls)
    left = scheduler.timesteps[skipped * calls :]
    if hasattr(scheduler, "add_noise"):
        noisy = scheduler.add_noise(torch.from_numpy(picture), torch.from_numpy(noise), left[:1])
    else:
        noisy = scheduler.scale_noise(torch.from_numpy(picture), left[:1], torch.from_numpy(noise))
    schedule = solver.schedule(Request(steps)).cut(skipped)
    at = schedule.hops[0][0]
    got = walk(solver, schedule, at.alpha * picture + at.sigma * noise, TorchNoise(7))
    return worst(got, loop(scheduler, noisy, left))


@pytest.mark.parametrize(("prediction", "spacing"), list(itertools.product(PREDICTIONS, SPACINGS)))
def test_predictions_and_spacings(prediction: str, spacing: str) -> None:
    config = {**BASE, "prediction_type": prediction, "timestep_spacing": spacing}
    for order, steps in itertools.product((1, 2, 3), STEPS):
        assert compare(NAME, {**config, "solver_order": order}, steps) < 1e-5, (order, steps)


@pytest.mark.parametrize("solver", ["bh1", "bh2"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noise_predictions_and_both_b(prediction: str, solver: str) -> None:
    """Up to three steps diffusers' float32 loses digits (the sample is divided by a tiny alpha): float64."""
    config = {**BASE, "prediction_type": prediction, "final_sigmas_type": "sigma_min", "solver_type": solver}
    for order, steps in itertools.product((1, 2, 3), STEPS):
        assert compare(NAME, {**config, "solver_order": order}, steps) < 1e-5, (order, steps)
        noise = {**config, "solver_order": order, "predict_x0": False}
        if steps > 3:
            assert compare(NAME, noise, steps) < 1e-5, (order, steps)
        else:
            single, double = off(NAME, noise, steps)
            assert single < 1e-5 and double < 1e-7, (order, steps)


OPTIONS: list[dict[str, Any]] = [
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": [0.0005 * (i + 1) for i in range(100)], "num_train_timesteps": 100},
    {"rescale_betas_zero_snr": True, **V},
    {"rescale_betas_zero_snr": True, **V, "timestep_spacing": "trailing", "solver_order": 3},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    {"steps_offset": 1, "timestep_spacing": "leading"},
    {"use_karras_sigmas": True},
    {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min", "solver_order": 3},
    {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0},
    {"use_exponential_sigmas": True},
    {"use_exponential_sigmas": True, "final_sigmas_type": "sigma_min", "lower_order_final": False},
    {"use_beta_sigmas": True, **V},
    {"use_beta_sigmas": True, "solver_order": 3},
    {"final_sigmas_type": "sigma_min", "lower_order_final": False, "solver_order": 3},
    {"disable_corrector": [0, 2, 5]},
    {"thresholding": True, "sample_max_value": 1.5},
    {"thresholding": True, "predict_x0": False, "final_sigmas_type": "sigma_min"},  # which ignores it
    {"solver_type": "midpoint"},  # which means bh2
    FLOW,
    {**FLOW, "flow_shift": 3.0, "solver_order": 3},
    {**FLOW, "flow_shift": 3.0, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
    {**FLOW, "final_sigmas_type": "sigma_min", "flow_shift": 0.5},
    {**FLOW, "use_karras_sigmas": True},
    {**FLOW, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
    {"use_flow_sigmas": True},
    {"use_flow_sigmas": True, **V},
    {"use_flow_sigmas": True, "prediction_type": "sample"},
    {**FLOW, "use_exponential_sigmas": True, "sigma_min": 0.02, "sigma_max": 0.98},
    {**FLOW, "use_beta_sigmas": True, "sigma_min": 0.02, "sigma_max": 0.98},
]


@pytest.mark.parametrize("extra", OPTIONS, ids=lambda v: str(v)[:90])
def test_options(extra: dict[str, Any]) -> None:
    for steps in STEPS:
        assert compare(NAME, {**BASE, **extra}, steps) < 1e-5, steps


def test_float64_formulas_agree_to_many_digits() -> None:
    """So what is left in float32 is rounding."""
    for extra in (
        {"use_karras_sigmas": True},
        {**FLOW, "flow_shift": 3.0},
        {"beta_schedule": "squaredcos_cap_v2"},
    ):
        for order, steps in itertools.product((1, 2, 3), (2, 7, 20)):
            assert off(NAME, {**BASE, **extra, "solver_order": order}, steps)[1] < 1e-12


NANS: list[dict[str, Any]] = [
    {"solver_type": "bh1"},
    {"solver_type": "bh1", "solver_order": 3, **V},
    {"predict_x0": False},
    {"predict_x0": False, "solver_type": "bh1", "prediction_type": "sample", "use_karras_sigmas": True},
    {**FLOW, "solver_type": "bh1", "flow_shift": 3.0},
]


@pytest.mark.parametrize("extra", NANS, ids=str)
def test_the_end_where_diffusers_has_none(extra: dict[str, Any]) -> None:
    """With final_sigmas_type zero, bh1 and noise predictions are NaN in diffusers; float64 with sigma 1e-60
    there shows the limit."""
    for steps in STEPS:
        single, double = off(NAME, {**BASE, **extra}, steps, last=1e-60)
        assert single < 1e-5 and double < 1e-6, steps


def test_a_hop_to_the_clean_sample_is_of_first_order() -> None:
    """Without lower_order_final diffusers ends on NaN; there is no limit, so both orders do the same here."""
    for extra in ({}, {"predict_x0": False}, {"solver_type": "bh1", **FLOW}):
        config = {**BASE, **extra}
        lower, higher = (mine(NAME, {**config, "lower_order_final": lower}, 7) for lower in (True, False))
        assert np.array_equal(lower, higher)


def test_timesteps_told_to_the_network_are_whole() -> None:
    import diffusers

    for extra in (
        {"use_beta_sigmas": True},
        {"use_exponential_sigmas": True},
        FLOW,
        {"use_karras_sigmas": True},
    ):
        scheduler = getattr(diffusers, NAME)(**BASE, **extra)
        for steps in (3, 10, 25, 40):
            scheduler.set_timesteps(steps)
            schedule = samplers.find({**scheduler.config, "_class_name": NAME}).schedule(Request(steps))
            assert [here.t for here, _ in schedule.hops] == scheduler.timesteps.tolist()


GIVEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"sigmas": (1.0, 0.8, 0.55, 0.25, 0.1)}),
    ({"flow_shift": 3.0, "solver_order": 3}, {"sigmas": (0.98, 0.8, 0.55, 0.25, 0.1)}),
    ({"use_dynamic_shifting": True}, {"mu": 0.9}),
    ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, {"mu": 2.5}),
    ({"use_dynamic_shifting": True, "shift_terminal": 0.1}, {"mu": 0.9, "sigmas": (1.0, 0.6, 0.4, 0.1)}),
    ({"shift_terminal": 0.02, "flow_shift": 5.0}, {}),
]


@pytest.mark.parametrize(("extra", "given"), GIVEN, ids=str)
def test_flow_levels_that_are_given(extra: dict[str, Any], given: dict[str, Any]) -> None:
    import diffusers
    import torch

    sigmas = {"sigmas": np.asarray(given["sigmas"])} if "sigmas" in given else {}
    for steps in STEPS[1:]:
        scheduler = getattr(diffusers, NAME)(**FLOW, **extra)
        scheduler.set_timesteps(steps, **{**given, **sigmas})
        request = Request(len(scheduler.timesteps), **given)
        got = ours({**scheduler.config, "_class_name": NAME}, None, start(), request)
        assert worst(got, loop(scheduler, torch.from_numpy(start()), scheduler.timesteps)) < 1e-5


def test_a_lone_step_is_not_stretched() -> None:
    """diffusers divides 0 by 0 there."""
    plain, stretched = (mine(NAME, {**FLOW, "shift_terminal": end}, 1) for end in (None, 0.1))
    assert np.array_equal(plain, stretched)


@pytest.mark.parametrize(
    "extra", [{}, {"solver_order": 3, "use_karras_sigmas": True}, {**FLOW, "flow_shift": 3.0}]
)
def test_cut_schedules(extra: dict[str, Any]) -> None:
    for steps in (4, 7, 20):
        for skipped in (1, 2, steps - 1):
            assert cut_off(NAME, {**BASE, **extra}, steps, skipped) < 1e-5, (steps, skipped)


@pytest.mark.parametrize("by_data", [True, False])
@pytest.mark.parametrize("solver", ["bh1", "bh2"])
def test_order_of_convergence(solver: str, by_data: bool) -> None:
    """Normally distributed data: the corrector adds one order to the predictor's."""
    for order in (1, 2):
        options = {"solver_order": order, "lower_order_final": False, "final_sigmas_type": "sigma_min"}
        coarse, fine = (
            error("unipc", steps, solver_type=solver, predict_x0=by_data, **options) for steps in (64, 128)
        )
        assert math.log2(coarse / fine) > order + 0.8, (order, coarse, fine)


def test_what_is_refused() -> None:
    def plan(request: Request = Request(4), **config: Any) -> Any:  # noqa: B008
        return samplers.find({"_class_name": NAME, **config}).schedule(request)

    for wrong in (
        {"solver_order": 4}, {"solver_type": "bh3"}, {"shift_terminal": 0.1}, {"final_sigmas_type": "none"},
        {"prediction_type": "flow_prediction"}, {"use_flow_sigmas": True, "use_exponential_sigmas": True},
        {"use_flow_sigmas": True, "flow_shift": 0.0}, {"use_flow_sigmas": True, "shift_terminal": 1.5},
        {"use_karras_sigmas": True, "use_beta_sigmas": True}, {"timestep_spacing": "log"},
    ):  # fmt: skip
        with pytest.raises(BundleError):
            plan(**wrong)
    for request, config in (
        (Request(4, timesteps=(999, 500)), {}),
        (Request(4, sigmas=(1.0, 0.5)), {}),
        (Request(4, sigmas=(1.0, 0.5)), {"use_flow_sigmas": True, "use_karras_sigmas": True}),
        (Request(4, sigmas=(0.5, 1.0)), {"use_flow_sigmas": True}),
        (Request(4), {"use_flow_sigmas": True, "use_dynamic_shifting": True}),
        (Request(1200), {}),
    ):
        with pytest.raises(InputError):
            plan(request, **config)
    with pytest.raises(UnsupportedError):
        plan(solver_p="DPMSolverMultistepScheduler")
