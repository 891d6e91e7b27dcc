"""EDM's samplers and the cosine DPM-Solver++ of Stable Audio against diffusers, with the gates of
``test_samplers_dpm``."""

from __future__ import annotations

import importlib
import itertools
import sys
import types
from typing import Any

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.errors import EdgediffError
from edgediff.noise import TorchNoise
from edgediff.schedule import Request
from tests.edgediff.test_samplers_dpm import ENDS, STEPS, TYPES, Wider, gap, levels
from tests.sampler_parity import SHAPE, Wide, compare, network, walk, worst

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
@pytest.mark.parametrize(("order", "algorithm"), [(1, "dpmsolver++"), (2, "dpmsolver++"), (3, "dpmsolver++"),
                                                  (1, "sde-dpmsolver++"), (2, "sde-dpmsolver++")])  # fmt: skip
@pytest.mark.parametrize(("kind", "end"), itertools.product(KINDS, ENDS))
def test_edm_dpmpp(order: int, algorithm: str, kind: str, end: str) -> None:
    for prediction, solver, extra, steps in itertools.product(PREDICTIONS, TYPES, RANGES, STEPS):
        config = {"prediction_type": prediction, "sigma_schedule": kind, "final_sigmas_type": end,
                  "solver_order": order, "solver_type": solver, "algorithm_type": algorithm, **extra}  # fmt: skip
        # With sigma_min the last two sigmas are equal and diffusers divides 0 by 0; the limit is meant.
        flat = end == "sigma_min"
        assert gap(DPM, config, steps, nudge=1e-12 if flat else 0.0) < (1e-6 if flat else 1e-8), (config, steps)
        if steps > 4 and not flat:  # as in test_edm_euler
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
    monkeypatch.setitem(samplers._FAMILIES, "cosine_dpmpp", ("cosine_dpmpp", COSINE, {}))
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
                out = network(scheduler.scale_model_input(sample, t), t, torch)
                sample = scheduler.step(out, t, sample, return_dict=False)[0]
        print(prediction, kind, steps, wide, end, worst(got, sample.numpy()))


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
