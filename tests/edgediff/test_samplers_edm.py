"""EDM's samplers and Stable Audio's against diffusers, with the gates of ``test_samplers_dpm``; then closed
forms, for the whole family of DPM-Solver."""

from __future__ import annotations

import importlib
import itertools
import math
import sys
import types
from typing import Any

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.errors import EdgediffError
from edgediff.noise import TorchNoise
from edgediff.samplers import dpmpp
from edgediff.schedule import Point, Request, Schedule
from tests.edgediff.test_samplers_dpm import (
    ALGORITHMS,
    DEIS,
    ENDS,
    MULTISTEP,
    SINGLESTEP,
    STEPS,
    TYPES,
    Wider,
    gap,
    levels,
)
from tests.sampler_parity import BASE, SHAPE, Wide, compare, network, walk, worst

EULER = "EDMEulerScheduler"
DPM = "EDMDPMSolverMultistepScheduler"
COSINE = "CosineDPMSolverMultistepScheduler"
PREDICTIONS = ("epsilon", "v_prediction")
KINDS = ("karras", "exponential")
RANGES: list[dict[str, Any]] = [{}, {"sigma_min": 0.1, "sigma_max": 20.0, "rho": 5.0, "sigma_data": 1.0}]


@pytest.mark.parity
@pytest.mark.parametrize(("prediction", "kind", "end"), itertools.product(PREDICTIONS, KINDS, ENDS))
def test_edm_euler(prediction: str, kind: str, end: str) -> None:
    for extra, steps in itertools.product(RANGES, STEPS):
        config = {"prediction_type": prediction, "sigma_schedule": kind, "final_sigmas_type": end, **extra}
        assert gap(EULER, config, steps) < 1e-8, (extra, steps)
        # From sigma 80 to a clean sample in few hops: diffusers is up to 8e-5 from float64, ours 2e-6.
        if steps > 4:
            assert compare(EULER, config, steps) < 1e-5, (extra, steps)


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_edm_euler_takes_places_on_its_ramp(kind: str) -> None:
    import torch

    ramp = torch.tensor([0.0, 0.1, 0.3, 0.4, 0.7, 0.9, 1.0])
    assert compare(EULER, {"sigma_schedule": kind}, 7, sigmas=ramp) < 1e-5


@pytest.mark.parity
@pytest.mark.parametrize(("order", "algorithm"), [*((n, "dpmsolver++") for n in (1, 2, 3)),
                                                  *((n, "sde-dpmsolver++") for n in (1, 2))])  # fmt: skip
@pytest.mark.parametrize(("kind", "end"), itertools.product(KINDS, ENDS))
def test_edm_dpmpp(order: int, algorithm: str, kind: str, end: str) -> None:
    shared = {"sigma_schedule": kind, "final_sigmas_type": end, "solver_order": order,
              "algorithm_type": algorithm}  # fmt: skip
    for prediction, solver, extra, steps in itertools.product(PREDICTIONS, TYPES, RANGES, STEPS):
        config = {**shared, "prediction_type": prediction, "solver_type": solver, **extra}
        if end == "sigma_min":
            # The last two sigmas are equal and diffusers divides 0 by 0; the limit is meant.
            assert gap(DPM, config, steps, nudge=1e-12) < 1e-6, (config, steps)
            continue
        assert gap(DPM, config, steps) < 1e-8, (config, steps)
        if steps > 4:  # as in test_edm_euler
            assert compare(DPM, config, steps) < 1e-5, (config, steps)


DPM_OPTIONS: list[dict[str, Any]] = [
    {"lower_order_final": False},
    {"lower_order_final": False, "solver_order": 3},
    {"euler_at_final": True},
    {"thresholding": True, "sample_max_value": 1.7},
]


@pytest.mark.parity
@pytest.mark.parametrize("extra", DPM_OPTIONS, ids=str)
def test_edm_dpmpp_options(extra: dict[str, Any]) -> None:
    for steps in STEPS:
        assert gap(DPM, extra, steps) < 1e-8, steps
        if steps > 4:
            assert compare(DPM, extra, steps) < 1e-5, steps


@pytest.mark.parity
@pytest.mark.parametrize(
    ("class_name", "extra"),
    [(EULER, {}), (DPM, {"solver_order": 3}), (DPM, {"algorithm_type": "sde-dpmsolver++"})],
    ids=str,
)
def test_cut_schedules(class_name: str, extra: dict[str, Any]) -> None:
    for steps in (3, 4, 9, 14, 15):
        for begin in {1, 2, steps - 1}:
            assert gap(class_name, extra, steps, begin) < 1e-8, (steps, begin)
            assert gap(class_name, extra, steps, begin, wide=False) < 1e-5, (steps, begin)


@pytest.fixture
def cosine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class itself, which diffusers hides where torchsde is missing."""
    importlib.import_module("diffusers.schedulers")  # which looks for the real one
    if "torchsde" not in sys.modules:
        monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
    return importlib.import_module("diffusers.schedulers.scheduling_cosine_dpmsolver_multistep")


@pytest.mark.parity
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(("order", "solver", "end"), itertools.product((1, 2), TYPES, ENDS))
def test_cosine_but_for_its_noise(
    cosine: Any, monkeypatch: pytest.MonkeyPatch, order: int, solver: str, end: str, wide: bool
) -> None:
    """Its Brownian increments are replaced by ours, which are independent: all else is compared."""
    import torch

    normal = TorchNoise(3).draw(SHAPE)
    x = normal.astype(np.float64) if wide else normal
    for prediction, kind, steps in itertools.product(PREDICTIONS, KINDS, STEPS):
        config = {"prediction_type": prediction, "sigma_schedule": kind, "solver_order": order,
                  "solver_type": solver, "final_sigmas_type": end}  # fmt: skip
        scheduler = cosine.CosineDPMSolverMultistepScheduler(**config)
        ours = samplers.find({**scheduler.config, "_class_name": COSINE})
        schedule = ours.schedule(Request(steps))
        got = walk(ours, schedule, x, Wide(7) if wide else TorchNoise(7))
        if wide:
            assert worst(walk(ours, schedule, x, Wide(7), by_table=True), got) < 1e-9
        scheduler.set_timesteps(steps)
        assert np.allclose(levels(scheduler, schedule), scheduler.sigmas.numpy(), rtol=1e-5, atol=0)
        if end == "sigma_min":
            scheduler.sigmas = torch.tensor(levels(scheduler, schedule), dtype=torch.float64)
            scheduler.sigmas[-1] *= 1 - 1e-12  # as in test_edm_dpmpp
        elif wide:
            scheduler.sigmas = torch.tensor(levels(scheduler, schedule), dtype=torch.float64)
        stream = Wide(7) if wide else TorchNoise(7)
        scheduler.noise_sampler = lambda here, there, stream=stream: torch.from_numpy(stream.draw(SHAPE))
        sample = torch.from_numpy(x * scheduler.init_noise_sigma)
        with monkeypatch.context() as patch:
            if wide:
                patch.setattr(cosine, "torch", Wider())
            for t in scheduler.timesteps:
                out = network(scheduler.scale_model_input(sample, t), t.to(sample.dtype), torch)
                sample = scheduler.step(out, t, sample, return_dict=False)[0]
        # The square root of 1e-12 is left of the last hop's noise.
        limit = (1e-8 if end == "zero" else 3e-6) if wide else 1e-5
        assert worst(got, sample.numpy()) < limit, (prediction, kind, steps)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (EULER, {"prediction_type": "sample"}, {}, "prediction_type"),
    (EULER, {"sigma_schedule": "unknown"}, {}, "sigma_schedule"),
    (EULER, {"final_sigmas_type": "unknown"}, {}, "final_sigmas_type"),
    (EULER, {"sigma_min": 0.0}, {}, "sigma_min"),
    (EULER, {}, {"timesteps": (1.0, 0.5)}, "timesteps"),
    (EULER, {}, {"sigmas": (80.0, 1.0)}, "sigmas"),
    (DPM, {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}, {}, "third order"),
    (DPM, {"algorithm_type": "dpmsolver"}, {}, "algorithm_type"),
    (DPM, {}, {"sigmas": (0.0, 1.0)}, "sigmas"),
    (DPM, {}, {"timesteps": (1.0, 0.5)}, "timesteps"),
]


@pytest.mark.parametrize(("class_name", "config", "asked", "named"), REFUSED, ids=str)
def test_refusals(class_name: str, config: dict[str, Any], asked: dict[str, Any], named: str) -> None:
    with pytest.raises(EdgediffError, match=named):
        samplers.find({"_class_name": class_name, **config}).schedule(Request(**{"steps": 2, **asked}))


# Closed forms: clean data N(m, s^2), for which the best prediction and the flow's end are formulas.
MEAN, SPREAD = 0.3, 0.5


def ideal(x: Any, at: Point) -> Any:
    variance = at.alpha**2 * SPREAD**2 + at.sigma**2
    return MEAN + at.alpha * SPREAD**2 / variance * (x - at.alpha * MEAN)


def miss(class_name: str, steps: int, **config: Any) -> float:
    """Distance from the exact end of the flow, on levels that are even in lambda."""
    lambdas = np.linspace(-2.0, 2.0, steps + 1)
    alphas = (1 / np.sqrt(1 + np.exp(-2 * lambdas))).tolist()
    points = [Point(0.0, alpha, math.sqrt(1 - alpha**2)) for alpha in alphas]
    x: Any = np.linspace(-2, 2, 9).reshape(1, -1)
    first, last = points[0], points[-1]
    ratio = math.hypot(last.alpha * SPREAD, last.sigma) / math.hypot(first.alpha * SPREAD, first.sigma)
    end = last.alpha * MEAN + ratio * (x - first.alpha * MEAN)
    solver = samplers.find({"_class_name": class_name, "lower_order_final": False, **config})
    schedule = Schedule(1.0, tuple(itertools.pairwise(points)))
    *_, step = solver.sampler(ideal, x, schedule, TorchNoise(0))
    return float(np.abs(step.x - end).max())


LOW_END = {"final_sigmas_type": "sigma_min"}


@pytest.mark.parametrize(
    ("class_name", "config", "order"),
    [
        *((MULTISTEP, {"solver_order": 1, "algorithm_type": a, **LOW_END}, 1.0) for a in ALGORITHMS[::2]),
        *((MULTISTEP, {"solver_type": t, "algorithm_type": a, **LOW_END}, 2.0)
          for t in TYPES for a in ALGORITHMS[::2]),
        # A multistep solver starts with a first-order hop, which is all that its third order can make up for.
        *((MULTISTEP, {"solver_order": 3, "algorithm_type": a, **LOW_END}, 2.0) for a in ALGORITHMS[::2]),
        *((SINGLESTEP, {"solver_type": t, "algorithm_type": a, **LOW_END}, 2.0)
          for t in TYPES for a in ALGORITHMS[::2]),
        *((SINGLESTEP, {"solver_order": 3, "solver_type": t, "algorithm_type": a, **LOW_END}, 3.0)
          for t in TYPES for a in ALGORITHMS[::2]),
        (DEIS, {"solver_order": 1}, 1.0),
        (DEIS, {"solver_order": 2}, 2.0),
        (DEIS, {"solver_order": 3}, 2.0),
    ],
    ids=str,
)  # fmt: skip
def test_order_of_convergence(class_name: str, config: dict[str, Any], order: float) -> None:
    coarse, fine = (miss(class_name, steps, **config) for steps in (96, 192))
    assert abs(math.log2(coarse / fine) - order) < 0.2, (coarse, fine)


@pytest.mark.parametrize("z", [0.4, -0.4, -0.8])
def test_polynomials_are_integrated_exactly(z: float) -> None:
    """z times the integral of exp(z * (1 - u)) * p(u), for p of the degree that the weights are exact for."""
    nodes, widths = np.polynomial.legendre.leggauss(12)
    u = (nodes + 1) / 2
    lambdas = (-1.1, -0.8, -0.1, 0.3)  # three predictions' levels and the hop's end
    *past, there = [Point(0.0, 1.0, math.exp(-one)) for one in lambdas]
    for count, bend, degree in ((1, 1.0, 0), (2, 1.0, 1), (3, 2.0, 2), (3, 1.0, 1)):
        used, values = past[-count:][::-1], [one**degree for one in lambdas[:3][-count:][::-1]]
        shares = dpmpp.shares(used, there, dpmpp.weights(z, count, False, bend))
        course = (lambdas[2] + u * (lambdas[3] - lambdas[2])) ** degree
        exact = z * float(np.sum(widths / 2 * np.exp(z * (1 - u)) * course))
        assert abs(float(np.dot(shares, values)) - exact) < 1e-12, (count, degree)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("algorithm", ["sde-dpmsolver++", "sde-dpmsolver"])
def test_sde_keeps_the_distribution(algorithm: str, order: int) -> None:
    config = {**BASE, "_class_name": MULTISTEP, "algorithm_type": algorithm, "solver_order": order, **LOW_END}
    solver = samplers.find(config)
    noise = TorchNoise(1)
    *_, step = solver.sampler(ideal, noise.draw((1, 20000)), solver.schedule(Request(200)), noise)
    assert abs(float(step.x.mean()) - MEAN) < 0.02
    assert abs(float(step.x.std()) - SPREAD) < 0.02


def test_samples_may_be_overwritten_between_hops() -> None:
    """What a caller writes into a finished step's sample reaches the next call and no older value."""
    for class_name, kind in itertools.product((MULTISTEP, SINGLESTEP, DEIS), TYPES):
        config = {"_class_name": class_name, "solver_order": 3, "solver_type": kind}
        solver = samplers.find(config)
        schedule = solver.schedule(Request(9))
        ends = []
        for write in (False, True):
            x = TorchNoise(2).draw((1, 16))
            kept: list[Any] = []
            for step in solver.sampler(ideal, x, schedule, TorchNoise(0)):
                if write and kept:
                    kept[-1][...] = np.nan
                kept.append(step.x)
            ends.append(kept[-1])
        assert np.array_equal(ends[0], ends[1])
