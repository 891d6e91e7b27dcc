"""Distilled samplers against diffusers: consistency models, LCM, TCD; who draws noise, who refuses what."""

from __future__ import annotations

import importlib
import inspect
import itertools
from typing import Any

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.errors import BundleError, InputError, UnsupportedError
from edgediff.noise import TorchNoise
from edgediff.schedule import Point, Request
from tests.edgediff.test_samplers_classic import SHAPES, Frozen, cut_difference, pair
from tests.sampler_parity import BASE, SHAPE, compare, reference, walk, worst

parity = pytest.mark.parity
CM, LCM, TCD = "CMStochasticIterativeScheduler", "LCMScheduler", "TCDScheduler"
PREDICTIONS = ("epsilon", "v_prediction", "sample")
FEW = (1, 2, 3, 4, 7, 8, 10, 14, 15, 20)
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
LEARNT: list[dict[str, Any]] = [
    {}, {"clip_denoised": False}, {"s_noise": 0.7}, {"num_train_timesteps": 20},
    {"sigma_data": 1.0, "rho": 5.0, "sigma_max": 20.0, "sigma_min": 0.01},
]  # fmt: skip


@parity
@pytest.mark.parametrize("config", LEARNT, ids=str)
def test_consistency(config: dict[str, Any]) -> None:
    for steps in FEW:
        assert compare(CM, config, steps) < 1e-5, steps
    both = pair(CM, config)
    for steps, cut in ((2, 1), (4, 1), (4, 2), (7, 6)):
        assert cut_difference(*both, steps, cut) < 1e-5, (steps, cut)


@parity
@pytest.mark.parametrize("timesteps", [[22, 0], [30, 22, 5], [39, 17, 0], [5], [0]], ids=str)
def test_consistency_with_custom_timesteps(timesteps: list[int]) -> None:
    for clipped in (True, False):
        assert compare(CM, {"clip_denoised": clipped}, 1, timesteps=timesteps) < 1e-5


def test_consistency_is_the_identity_at_the_cleanest_level() -> None:
    """And for data in one place the sampler ends there, plus nothing: the last draw's share is 0."""
    solver = samplers.find({}, "consistency")
    assert solver.conversion(Point(0.0, 1.0, 0.002))[1:] == (1.0, 0.0)
    schedule = solver.schedule(Request(3))
    assert schedule.start == 80.0
    assert [round(here.sigma, 3) for here, _ in schedule.hops] == [80.0, 9.723, 0.47]
    *_, last = solver.sampler(
        lambda x, at: np.full_like(x, 0.25), TorchNoise(3).draw(SHAPE), schedule, TorchNoise(7)
    )
    assert np.array_equal(last.x, last.clean)
    assert (last.x == 0.25).all()


def distilled(prediction: str) -> dict[str, Any]:
    return {**BASE, "prediction_type": prediction}


@parity
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [None, 0.0, 0.3, 0.7, 1.0])
def test_tcd(prediction: str, eta: float | None) -> None:
    options = {} if eta is None else {"eta": eta}
    for steps in (*FEW, 30, 50):
        assert compare(TCD, distilled(prediction), steps, **options) < 1e-5, steps


UNUSED = {
    "clip_sample": True, "thresholding": True, "set_alpha_to_one": False, "timestep_scaling": 1.0,
    "timestep_spacing": "trailing", "steps_offset": 1,
}  # fmt: skip


@parity
@pytest.mark.parametrize(
    "extra", [UNUSED, {"original_inference_steps": 100}, {"beta_schedule": "linear"}, ZERO_SNR], ids=str
)
def test_tcd_options(extra: dict[str, Any]) -> None:
    for steps in (1, 2, 4, 33, 50):
        assert compare(TCD, {**BASE, **extra}, steps) < 1e-5, steps
    for eta in (0.15, 0.3, 0.6):  # timesteps of which a share is whole, where float32 decides
        assert compare(TCD, {**BASE, **extra}, 4, timesteps=[999, 640, 320, 10], eta=eta) < 1e-5


@parity
@pytest.mark.parametrize("class_name", [LCM, TCD])
@pytest.mark.parametrize("extra", [{}, {"original_inference_steps": 33}, ZERO_SNR], ids=str)
def test_strength_lays_the_grid_out(class_name: str, extra: dict[str, Any]) -> None:
    """The list for every strength, then the walks; what one side refuses the other refuses."""
    solver, scheduler = pair(class_name, {**BASE, **extra})
    for strength, steps in itertools.product(
        (0.05, 0.29, 0.3, 0.57, 0.58, 0.8, 0.999, 1.0), (1, 2, 4, 8, 29)
    ):
        asked = Request(steps, strength=strength)
        try:
            scheduler.set_timesteps(steps, strength=strength)
        except (ValueError, ZeroDivisionError):
            with pytest.raises(InputError, match="strength"):
                solver.schedule(asked)
            continue
        hops = solver.schedule(asked).hops
        assert [here.t for here, _ in hops] == scheduler.timesteps.tolist(), (strength, steps)
        x = TorchNoise(3).draw(SHAPE)
        expected = reference(Frozen(scheduler, scheduler.timesteps), x, steps)
        got = walk(solver, solver.schedule(asked), x, TorchNoise(7))
        assert worst(got, expected) < 1e-5, (strength, steps)


@parity
@pytest.mark.parametrize("class_name", [LCM, TCD])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_cut_schedules(class_name: str, prediction: str) -> None:
    both = pair(class_name, distilled(prediction))
    for steps in (2, 4, 7, 20):
        for cut in (1, steps // 2, steps - 1):
            assert cut_difference(*both, steps, cut) < 1e-5, (steps, cut)


@parity
def test_strength_of_custom_timesteps() -> None:
    solver, scheduler = pair(TCD, BASE)
    x, times = TorchNoise(3).draw(SHAPE), (999.0, 799.0, 499.0, 259.0, 19.0)
    for strength in (0.2, 0.5, 0.59, 0.6, 1.0):
        scheduler.set_timesteps(timesteps=[int(t) for t in times], strength=strength)
        schedule = solver.schedule(Request(5, timesteps=times, strength=strength))
        assert [here.t for here, _ in schedule.hops] == scheduler.timesteps.tolist()
        expected = reference(Frozen(scheduler, scheduler.timesteps), x, 5)
        assert worst(walk(solver, schedule, x, TorchNoise(7)), expected) < 1e-5, strength
    with pytest.raises(InputError, match="none of 5"):
        solver.schedule(Request(5, timesteps=times, strength=0.1))
    with pytest.raises(InputError, match="combined with a strength"):
        samplers.find(BASE, "lcm").schedule(Request(5, timesteps=times, strength=0.6))


def test_tcd_without_noise_is_ddim_along_its_list() -> None:
    x, ends = TorchNoise(3).draw(SHAPE), []
    tcd, ddim = samplers.find(BASE, "tcd", eta=0.0), samplers.find(BASE, "ddim", clip_sample=False)
    for solver in (tcd, ddim):
        ends.append(walk(solver, tcd.schedule(Request(7)), x, TorchNoise(7)))
    assert worst(*ends) < 1e-5


# Options of step(), and Euler's ends of the sigmas, which diffusers reads from any configuration.
BESIDES = {"eta", "use_clipped_model_output", "order", "sigma_min", "sigma_max"}
FAMILIES = (
    "consistency", "ddim", "ddpm", "euler", "euler_ancestral", "heun", "ipndm", "kdpm2", "kdpm2_ancestral",
    "lcm", "lms", "pndm", "tcd",
)  # fmt: skip


@parity
@pytest.mark.parametrize("name", FAMILIES)
def test_defaults_are_the_classes(name: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    module, class_name, _ = samplers._FAMILIES[name]
    ours = importlib.import_module(f"edgediff.samplers.{module}").DEFAULTS
    signature = inspect.signature(getattr(diffusers, class_name).__init__)
    theirs = {k: v.default for k, v in signature.parameters.items() if k != "self"}
    assert {k: v for k, v in ours.items() if k in theirs} == theirs
    assert set(ours) - set(theirs) <= BESIDES


class Counting(TorchNoise):
    draws = 0

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        self.draws += 1
        return super().draw(shape)


DRAWS: list[tuple[str, dict[str, Any], int]] = [
    ("ddim", {}, 0), ("ddim", {"eta": 0.5}, 4), ("ddpm", {}, 3), ("ddpm", {"steps_offset": 1}, 4),
    ("euler", {}, 0), ("euler_ancestral", {}, 4), ("heun", {}, 0), ("lms", {}, 0), ("kdpm2", {}, 0),
    ("kdpm2_ancestral", {}, 3), ("pndm", {}, 0), ("consistency", {}, 4), ("lcm", {}, 3), ("tcd", {}, 3),
    ("tcd", {"eta": 0.0}, 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "draws"), DRAWS, ids=str)
def test_who_draws_noise_in_four_steps(name: str, options: dict[str, Any], draws: int) -> None:
    solver, noise = samplers.find(BASE, name, **options), Counting(0)
    walk(solver, solver.schedule(Request(4)), TorchNoise(3).draw(SHAPE), noise)
    assert noise.draws == draws


def test_custom_lists_that_are_refused() -> None:
    for name in ("euler_ancestral", "lms", "kdpm2", "pndm"):
        with pytest.raises(InputError, match="timesteps"):
            samplers.find(BASE, name).schedule(Request(2, timesteps=(999.0, 500.0)))
    for name in ("ddim", "ddpm", "heun", "lms", "kdpm2_ancestral", "pndm", "lcm", "tcd", "consistency"):
        with pytest.raises(InputError, match="sigmas"):
            samplers.find(BASE, name).schedule(Request(2, sigmas=(9.0, 1.0, 0.0)))
    for name, options in itertools.product(("euler", "heun"), SHAPES[1:]):
        with pytest.raises(InputError, match="beta sigmas"):
            samplers.find(BASE, name, **options).schedule(Request(2, timesteps=(999.0, 500.0)))
    continuous = samplers.find(BASE, "euler", timestep_type="continuous", prediction_type="v_prediction")
    with pytest.raises(InputError, match="continuous"):
        continuous.schedule(Request(2, timesteps=(999.0, 500.0)))
    for name, times in (
        ("consistency", (40.0, 0.0)),
        ("consistency", (2.5,)),
        ("tcd", (1000.0,)),
        ("ddpm", (1.0, 2.0)),
    ):
        with pytest.raises(InputError, match="timesteps"):
            samplers.find(BASE, name).schedule(Request(2, timesteps=times))


@pytest.mark.parametrize(
    ("name", "options", "steps", "match"),
    [
        ("heun", {"use_karras_sigmas": True, "use_beta_sigmas": True}, 2, "exclude"),
        ("ddpm", {"steps_offset": 10}, 1000, "steps_offset"),
        ("lms", {"order": 0}, 2, "order"),
        ("tcd", {"eta": 1.5}, 2, "eta"),
        ("lcm", {"original_inference_steps": 2000}, 2, "original_inference_steps"),
        ("consistency", {"num_train_timesteps": 1}, 1, "2 levels"),
        ("consistency", {"sigma_min": 0.0}, 1, "sigma_min"),
    ],
)
def test_configurations_that_make_no_sense(
    name: str, options: dict[str, Any], steps: int, match: str
) -> None:
    with pytest.raises(BundleError, match=match):
        samplers.find(BASE, name, **options).schedule(Request(steps))


def test_more_steps_than_levels() -> None:
    for name, steps in (("lcm", 51), ("tcd", 51), ("consistency", 41), ("ddim", 1001), ("pndm", 1001)):
        with pytest.raises(InputError, match=f"steps: {steps}"):
            samplers.find({}, name).schedule(Request(steps))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {"variance_type": "learned_range"}),
        ("euler_ancestral", {"prediction_type": "sample"}),
        ("kdpm2", {"prediction_type": "sample"}),
        ("pndm", {"prediction_type": "sample"}),
        ("ipndm", {"trained_betas": (0.1,)}),
    ],
)
def test_what_is_not_implemented(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        samplers.find(BASE, name, **options)
