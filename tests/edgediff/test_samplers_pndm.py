"""PNDM, which is Stable Diffusion 1.5's own default, and IPNDM against diffusers; orders of convergence."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.errors import InputError
from edgediff.noise import TorchNoise
from edgediff.samplers.lms import weights
from edgediff.samplers.pndm import ADAMS
from edgediff.schedule import Point, Request, Schedule
from tests.edgediff.test_samplers_classic import (
    MEAN,
    SPACINGS,
    SPREAD,
    agree64,
    cut_difference,
    differences,
    ideal,
    pair,
)
from tests.sampler_parity import BASE, SHAPE, compare, ours, reference, walk, worst

parity = pytest.mark.parity
PNDM = "PNDMScheduler"
SKIP = {"skip_prk_steps": True}
SD15 = {
    **BASE, **SKIP, "num_train_timesteps": 1000, "set_alpha_to_one": False, "steps_offset": 1,
    "prediction_type": "epsilon", "timestep_spacing": "leading", "trained_betas": None, "clip_sample": False,
}  # fmt: skip
CASES = [
    *({"prediction_type": p, "timestep_spacing": s, "set_alpha_to_one": one}
      for p, s, one in itertools.product(("epsilon", "v_prediction"), SPACINGS, (False, True))),
    {"steps_offset": 1}, {"beta_schedule": "linear"}, {"beta_schedule": "squaredcos_cap_v2"},
    {"num_train_timesteps": 100, "trained_betas": [0.0005 * (i + 1) for i in range(100)]},
]  # fmt: skip


def case(extra: dict[str, Any]) -> str:
    return " ".join(str(value)[:20] for value in extra.values())


# The network, called at t = 0, decides over half the way to t = 0 (linspace); or diffusers turns v into an
# epsilon that is multiplied by 15 (trailing, one step). Both are held to diffusers' scheduler in float64.
HARD = {("epsilon", "linspace"): 2, ("v_prediction", "trailing"): 1}


@parity
@pytest.mark.parametrize("extra", CASES, ids=case)
def test_options_without_runge_kutta(extra: dict[str, Any]) -> None:
    hard = HARD.get((extra.get("prediction_type", ""), extra.get("timestep_spacing", "")))
    found = differences(PNDM, {**SKIP, **extra})
    assert max(v for n, v in found.items() if n != hard) < 1e-5
    if hard is not None:
        agree64(PNDM, {**SKIP, **extra}, hard)


@parity
@pytest.mark.parametrize("extra", CASES, ids=case)
def test_options_with_runge_kutta(extra: dict[str, Any]) -> None:
    for steps in (4, 5, 7, 10, 14, 15, 20, 30, 50):
        assert compare(PNDM, {**BASE, **extra}, steps) < 1e-5, steps


@parity
def test_the_default_of_stable_diffusion_for_every_number_of_steps() -> None:
    """The configuration as its file has it, with keys of another class and a version."""
    diffusers = pytest.importorskip("diffusers")
    file = {**SD15, "_class_name": PNDM, "_diffusers_version": "0.7.0.dev0"}
    scheduler, x = diffusers.PNDMScheduler.from_config(file), TorchNoise(3).draw(SHAPE)
    for steps in (*range(1, 52), 75, 100, 150):
        assert worst(ours(file, None, x, Request(steps)), reference(scheduler, x, steps)) < 1e-5, steps


@parity
@pytest.mark.parametrize("skip", [True, False])
def test_hops_are_the_calls_of_the_list(skip: bool) -> None:
    for spacing, offset in itertools.product(SPACINGS, (0, 1)):
        config = {"timestep_spacing": spacing, "steps_offset": offset, "skip_prk_steps": skip}
        solver, scheduler = pair(PNDM, {**BASE, **config})
        for steps in range(1 if skip else 4, 61):
            scheduler.set_timesteps(steps)
            hops = solver.schedule(Request(steps)).hops
            assert [here.t for here, _ in hops] == scheduler.timesteps.tolist(), (spacing, offset, steps)
            if skip:
                assert all(here.t - there.t == 1000 // steps for here, there in hops)


@parity
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_cut_schedules(spacing: str, prediction: str) -> None:
    """Every place, the repeated timestep and its two neighbours among them; diffusers counts calls from 0."""
    for one in (False, True):
        config = {**SD15, "timestep_spacing": spacing, "prediction_type": prediction, "set_alpha_to_one": one}
        config.pop("clip_sample")
        both = pair(PNDM, config)
        for steps in (2, 3, 4, 7, 20, 50):
            cuts = range(1, steps + 1) if steps < 20 else (1, 2, 3, 4, 5, steps // 2, steps - 1, steps)
            for cut in cuts:
                # Both calls at t = 0 or 1 and a hop of half the table: v from a float32 clean sample is not
                # enough for that, so it is held to diffusers' scheduler in float64.
                hard = (prediction, spacing == "trailing", steps, cut) == ("v_prediction", False, 2, 1)
                kind, gate = (np.float64, 1e-7) if hard else (np.float32, 1e-5)
                assert cut_difference(*both, steps, cut, kind) < gate, (one, steps, cut)


def test_a_cut_walk_repeats_its_own_first_hop() -> None:
    """From the third entry on: three calls make two hops of one stride each, and the last level is missed."""
    solver = samplers.find({**SD15, "_class_name": PNDM})
    schedule = solver.schedule(Request(10)).cut(8)
    assert [(here.t, there.t) for here, there in schedule.hops] == [(201, 101), (101, 1), (1, -99)]
    x = np.linspace(-1, 1, 9).reshape(1, -1)
    eps = 0.2 * x

    def denoise(x: Any, at: Point) -> Any:
        return (x - at.sigma * eps) / at.alpha

    steps = list(solver.sampler(denoise, x, schedule, TorchNoise(0)))  # type: ignore[arg-type]
    first, second = schedule.hops[0]
    moved = second.alpha * denoise(x, first) + second.sigma * eps
    assert np.abs(steps[0].x - moved).max() < 1e-12
    assert np.abs(steps[1].x - moved).max() < 1e-12


def test_what_the_runge_kutta_start_refuses() -> None:
    solver = samplers.find(BASE, "pndm")
    with pytest.raises(InputError, match="at least 4"):
        solver.schedule(Request(3))
    schedule = solver.schedule(Request(10))
    assert len(schedule.hops) == 19
    with pytest.raises(InputError, match="part way"):
        walk(solver, schedule.cut(2), TorchNoise(3).draw(SHAPE), TorchNoise(7))
    ended = schedule.cut(0, 5)
    assert np.isfinite(walk(solver, ended, TorchNoise(3).draw(SHAPE), TorchNoise(7))).all()
    for name, value in (("timesteps", (999.0, 1.0)), ("sigmas", (9.0, 1.0))):
        with pytest.raises(InputError, match=name):
            solver.schedule(Request(2, **{name: value}))  # type: ignore[arg-type]


@parity
def test_ipndm() -> None:
    solver, scheduler = pair("IPNDMScheduler", {})
    x = TorchNoise(3).draw(SHAPE)
    for steps in (2, 3, 4, 7, 10, 14, 15, 20, 30, 100):
        assert compare("IPNDMScheduler", {}, steps) < 1e-5, steps
        for cut in (1, steps // 2, steps - 1):
            scheduler.set_timesteps(steps)
            scheduler.set_begin_index(cut)
            schedule = solver.schedule(Request(steps)).cut(cut)
            expected = _rest(scheduler, x, cut)
            assert worst(walk(solver, schedule, x, TorchNoise(7)), expected) < 1e-5, (steps, cut)
    assert (
        walk(solver, solver.schedule(Request(1)), x, TorchNoise(7)) == 0
    ).all()  # nothing is left of noise


def _rest(scheduler: Any, x: np.ndarray, cut: int) -> np.ndarray:
    import torch

    from tests.sampler_parity import network

    sample = torch.from_numpy(x)
    for t in scheduler.timesteps[cut:]:
        sample = scheduler.step(network(sample, t, torch), t, sample, return_dict=False)[0]
    return np.asarray(sample.numpy())


def test_adams_weights() -> None:
    """On even levels the integrals of Lagrange's polynomials are Adams' and Bashforth's fractions."""
    for order, expected in enumerate(ADAMS, 1):
        assert np.allclose(weights([float(-k) for k in range(order)], 1.0), expected, rtol=1e-12)
    levels, end = [3.0, 5.0, 9.0, 14.0], 0.5
    cubic = sum(weight * level**3 for weight, level in zip(weights(levels, end), levels, strict=True))
    assert math.isclose(cubic, (end**4 - levels[0] ** 4) / 4, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("name", "order", "options"),
    [("heun", 2, {}), ("kdpm2", 2, {}), *(("lms", order, {"order": order}) for order in (1, 2))],
)
def test_order_of_convergence(name: str, order: int, options: dict[str, int]) -> None:
    """The exact flow in sigma space keeps (x - MEAN) / sqrt(SPREAD^2 + sigma^2)."""
    solver, x = samplers.find(BASE, name, **options), np.linspace(-4, 4, 9).reshape(1, -1)
    errors = []
    for steps in (128, 256):
        sigmas = np.exp(np.linspace(math.log(5.0), math.log(0.1), steps + 1))
        hops = tuple(itertools.pairwise(Point(0.0, 1.0, float(s)) for s in sigmas))
        *_, last = solver.sampler(ideal, x, Schedule(1.0, hops), TorchNoise(0))  # type: ignore[arg-type]
        width = math.hypot(SPREAD, sigmas[-1]) / math.hypot(SPREAD, sigmas[0])
        errors.append(np.abs(last.x - MEAN - width * (x - MEAN)).max())
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.2, errors


def test_pndm_ends_nearer_to_the_exact_flow_than_ddim() -> None:
    """On the training table itself, down to its cleanest step."""
    errors = []
    for name, options in (("ddim", {"clip_sample": False, "set_alpha_to_one": False}), ("pndm", SKIP)):
        solver = samplers.find(BASE, name, **options)
        schedule, x = solver.schedule(Request(40)), np.linspace(-2, 2, 9).reshape(1, -1)
        *_, last = solver.sampler(ideal, x, schedule, TorchNoise(0))  # type: ignore[arg-type]
        first, end = schedule.hops[0][0], schedule.hops[-1][1]
        widths = [math.hypot(at.alpha * SPREAD, at.sigma) for at in (first, end)]
        exact = end.alpha * MEAN + widths[1] / widths[0] * (x - first.alpha * MEAN)
        errors.append(np.abs(last.x - exact).max())
    assert errors[1] < errors[0] / 4, errors
