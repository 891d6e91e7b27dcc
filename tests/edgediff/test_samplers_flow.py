"""Flow matching's samplers and SCM against diffusers' schedulers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.errors import BundleError, InputError, UnsupportedError
from edgediff.noise import TorchNoise
from edgediff.schedule import Point, Request, Schedule
from tests.edgediff.test_samplers_exact import MEAN, SPREAD, flow_end, ideal
from tests.edgediff.test_samplers_unipc import STEPS, cut_off, loop, mine, start
from tests.sampler_parity import SHAPE, compare, network, ours, walk, worst

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

EULER, HEUN, LCM = (f"FlowMatch{kind}Scheduler" for kind in ("EulerDiscrete", "HeunDiscrete", "LCM"))
SCM = "SCMScheduler"
LEVELS: list[dict[str, Any]] = [
    {},
    {"shift": 3.0},
    {"shift": 0.5},
    {"shift": 1.7, "num_train_timesteps": 500},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True, "shift": 3.0},
    {"use_beta_sigmas": True, "shift": 3.0},
]
INVERTED: list[dict[str, Any]] = [
    {"invert_sigmas": True},
    {"invert_sigmas": True, "shift": 2.0, "use_karras_sigmas": True},
]
STOCHASTIC: list[dict[str, Any]] = [{**extra, "stochastic_sampling": True} for extra in LEVELS]


@pytest.mark.parametrize(
    ("name", "extra"),
    [(EULER, extra) for extra in LEVELS + INVERTED + STOCHASTIC] + [(LCM, extra) for extra in LEVELS],
    ids=lambda v: str(v)[:90],
)
def test_levels(name: str, extra: dict[str, Any]) -> None:
    for steps in STEPS:
        assert compare(name, extra, steps) < 1e-5, steps


@pytest.mark.parametrize("name", [EULER, LCM])
@pytest.mark.parametrize("extra", [{}, {"shift": 4.0}, {"shift": 3.0, "use_beta_sigmas": True}], ids=str)
def test_terminal_shift(name: str, extra: dict[str, Any]) -> None:
    for end, steps in itertools.product((0.02, 0.1), STEPS[1:]):
        assert compare(name, {**extra, "shift_terminal": end}, steps) < 1e-5, steps
    # diffusers divides 0 by 0 for one step; a lone sigma of 1 has nothing to stretch.
    config = {**extra, "use_beta_sigmas": False}
    assert np.array_equal(mine(name, {**config, "shift_terminal": 0.1}, 1), mine(name, config, 1))


DYNAMIC: list[dict[str, Any]] = [
    {},
    {"time_shift_type": "linear"},
    {"shift_terminal": 0.1},
    {"use_karras_sigmas": True},
    {"invert_sigmas": True},
    {"shift": 3.0},  # which it then does not read
]
SIGMAS = (1.0, 0.75, 0.5, 0.25, 0.05)
TIMES = (1000.0, 700.0, 400.0, 333.3, 100.0)


def set_off(name: str, config: dict[str, Any], request: Request, **given: Any) -> float:
    """The gap between our schedule for ``request`` and diffusers' for what is ``given`` to set_timesteps."""
    import diffusers
    import torch

    layout = {"layout": config.pop("layout")} if "layout" in config else {}
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(**given)
    saved = {**scheduler.config, "_class_name": name, **layout}
    got = ours(saved, None, start(), request)
    return worst(got, loop(scheduler, torch.from_numpy(start()), scheduler.timesteps))


@pytest.mark.parametrize(
    ("name", "extra"),
    [*((EULER, e) for e in DYNAMIC), *((LCM, e) for e in DYNAMIC if "invert_sigmas" not in e)],
)
def test_shifts_that_depend_on_the_size(name: str, extra: dict[str, Any]) -> None:
    config = {**extra, "use_dynamic_shifting": True}
    for steps in STEPS[1 if "shift_terminal" in extra else 0 :]:
        assert set_off(name, dict(config), Request(steps, mu=0.8), num_inference_steps=steps, mu=0.8) < 1e-5
        linear = np.linspace(1, 1 / steps, steps)
        request = Request(steps, mu=1.3)
        assert set_off(name, {**config, "layout": "linear"}, request, sigmas=linear, mu=1.3) < 1e-5
    request = Request(0, sigmas=SIGMAS, mu=1.15)
    assert set_off(name, dict(config), request, sigmas=list(SIGMAS), mu=1.15) < 1e-5


def test_mu_of_a_number_of_tokens() -> None:
    """The line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift), as pipelines draw
    it."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    for tokens, line in itertools.product(
        (64, 1024, 4096, 9000), ((256, 4096, 0.5, 1.15), (512, 8192, 0.4, 0.9))
    ):
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        solver = samplers.find(
            {"_class_name": EULER, "use_dynamic_shifting": True, **dict(zip(names, line, strict=True))}
        )
        mu = calculate_shift(tokens, *line)
        by_tokens, by_mu = solver.schedule(Request(4, tokens=tokens)), solver.schedule(Request(4, mu=mu))
        assert np.allclose(by_tokens.hops, by_mu.hops, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [EULER, LCM])
@pytest.mark.parametrize("extra", [{}, {"shift": 3.0}, {"use_exponential_sigmas": True}], ids=str)
def test_levels_that_are_given(name: str, extra: dict[str, Any]) -> None:
    assert set_off(name, dict(extra), Request(0, sigmas=SIGMAS), sigmas=list(SIGMAS)) < 1e-5
    assert set_off(name, dict(extra), Request(0, timesteps=TIMES), timesteps=list(TIMES)) < 1e-5
    both = {"sigmas": list(SIGMAS), "timesteps": list(TIMES)}
    assert set_off(name, dict(extra), Request(0, TIMES, SIGMAS), **both) < 1e-5
    for steps in STEPS:
        linear = np.linspace(1, 1 / steps, steps)
        assert set_off(name, {**extra, "layout": "linear"}, Request(steps), sigmas=linear) < 1e-5
    inverted = {**extra, "invert_sigmas": True}
    if name == EULER:
        assert set_off(name, inverted, Request(0, timesteps=TIMES), timesteps=list(TIMES)) < 1e-5


def test_both_layouts_of_four_steps() -> None:
    """diffusers' schedulers end near 0, its pipelines' own sigmas do not."""
    for layout, expected in (("scheduler", (1, 0.858, 0.602, 0.009)), ("linear", (1, 0.9, 0.75, 0.5))):
        solver = samplers.find({"_class_name": EULER, "shift": 3.0}, layout=layout)
        sigmas = [here.sigma for here, _ in solver.schedule(Request(4)).hops]
        assert np.allclose(sigmas, expected, atol=5e-4)


@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_heun(shift: float) -> None:
    """Its slopes divide by sigma, which is 0.001 before the end for shift 1: float32 keeps four digits of the
    slope, in diffusers and here. The formulas are compared in float64, ours in float32 with those."""
    for steps in STEPS:
        gap = compare(HEUN, {"shift": shift}, steps)
        exact = heun_in_float64(shift, steps)
        assert worst(mine(HEUN, {"shift": shift}, steps, wide=True), exact) < 1e-6, steps
        assert gap < (1e-4 if (shift, steps) == (1.0, 2) else 1e-5), steps
    assert len(samplers.find({"_class_name": HEUN}).schedule(Request(4)).hops) == 4


def heun_in_float64(shift: float, steps: int) -> np.ndarray:
    """Heun's method on x' = network, written without clean predictions."""
    ends = [shift * s / (1 + (shift - 1) * s) for s in (1.0, 0.001)]
    even = np.linspace(ends[0], ends[1], steps)
    sigmas = [*(shift * even / (1 + (shift - 1) * even)), 0.0]
    x = start().astype(np.float64)
    for here, there in itertools.pairwise(sigmas):
        slope = network(x, 1000 * here, np)
        if there > 0:
            slope = (slope + network(x + (there - here) * slope, 1000 * there, np)) / 2
        x = x + (there - here) * slope
    return np.asarray(x)


def test_heun_calls_the_network_twice_per_hop_but_the_last() -> None:
    import diffusers

    told: list[float] = []

    def denoise(x: np.ndarray, at: Point) -> np.ndarray:
        told.append(at.t)
        return 0.5 * x

    solver = samplers.find({"_class_name": HEUN, "shift": 3.0})
    steps = list(solver.sampler(denoise, start(), solver.schedule(Request(5)), TorchNoise(0)))
    scheduler = getattr(diffusers, HEUN)(shift=3.0)
    scheduler.set_timesteps(5)
    assert len(steps) == 5 and len(told) == 9
    assert np.allclose(told, scheduler.timesteps.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "extra"),
    [(EULER, {}), (EULER, {"shift": 3.0}), (EULER, {"stochastic_sampling": True}), (LCM, {"shift": 2.0})],
    ids=str,
)
def test_cut_schedules(name: str, extra: dict[str, Any]) -> None:
    for steps in (4, 7, 20):
        for skipped in (1, 2, steps - 1):
            assert cut_off(name, extra, steps, skipped) < 1e-5, (steps, skipped)


def test_cut_heun() -> None:
    for steps in (4, 7, 20):
        for skipped in (1, 2, steps - 1):
            assert cut_off(HEUN, {"shift": 3.0}, steps, skipped, calls=2) < 1e-5, (steps, skipped)


@pytest.mark.parametrize(("name", "order"), [("flow_euler", 1), ("flow_heun", 2)])
def test_order_of_convergence(name: str, order: int) -> None:
    """Normally distributed data between two fixed levels."""
    errors = []
    for steps in (64, 128):
        points = [Point(1000 * s, 1 - s, s) for s in np.linspace(0.95, 0.05, steps + 1).tolist()]
        schedule = Schedule(1.0, tuple(itertools.pairwise(points)))
        x = np.linspace(-2, 2, 9).reshape(1, -1)
        solver = samplers.find({"_class_name": EULER}, name)
        for step in solver.sampler(ideal, x, schedule, TorchNoise(0)):  # type: ignore[arg-type]
            last = step.x
        errors.append(np.abs(last - flow_end(x, points[0], points[-1])).max())
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.15


@pytest.mark.parametrize("name", [LCM, SCM])
def test_new_noise_keeps_the_distribution(name: str) -> None:
    """The ideal consistency model of normally distributed data carries each sample along its path to the
    end; then every prediction has the data's mean and deviation, and every sample its level's."""
    solver = samplers.find({"_class_name": name})
    schedule, noise = solver.schedule(Request(4)), TorchNoise(1)

    def carried(x: np.ndarray, at: Point) -> np.ndarray:
        return flow_end(x, at, Point(0.0, 1.0, 0.0))

    x = schedule.start * noise.draw((1, 20000))
    steps = list(solver.sampler(carried, x, schedule, noise))
    for step, (_, there) in zip(steps, schedule.hops, strict=True):
        assert abs(float(step.clean.mean()) - MEAN) < 0.02 and abs(float(step.clean.std()) - SPREAD) < 0.02
        assert abs(float(step.x.mean()) - there.alpha * MEAN) < 0.02
        assert abs(float(step.x.std()) - math.hypot(there.alpha * SPREAD, there.sigma)) < 0.02


SCM_GIVEN: list[tuple[dict[str, Any], int, dict[str, Any]]] = [
    *(({}, n, {"intermediate_timesteps": None}) for n in (1, 3, 4, 7, 10, 20)),
    ({}, 2, {}),
    ({"intermediate_timesteps": 1.1}, 2, {}),
    ({"intermediate_timesteps": None, "max_timesteps": 1.56454}, 2, {}),
    ({"max_timesteps": 1.5}, 5, {"intermediate_timesteps": None}),
    ({"sigma_data": 0.8}, 2, {}),
]


def scm_off(config: dict[str, Any], request: Request, skipped: int = 0, **given: Any) -> float:
    """Against the pipeline's loop: it scales the start by sigma_data and leaves the last timestep out."""
    import diffusers
    import torch

    deviation = config.get("sigma_data", 0.5)
    scheduler = getattr(diffusers, SCM)(sigma_data=deviation)
    scheduler.set_timesteps(**given)
    scheduler.set_begin_index(skipped)
    solver = samplers.find({**scheduler.config, "_class_name": SCM}, **config)
    if not skipped:
        expected = loop(scheduler, torch.from_numpy(deviation * start()), scheduler.timesteps[:-1])
        return worst(
            ours({**scheduler.config, "_class_name": SCM}, None, start(), request, **config), expected
        )
    picture, noise = TorchNoise(5).draw(SHAPE), TorchNoise(6).draw(SHAPE)
    angle = float(scheduler.timesteps[skipped])
    noisy = np.float32(math.cos(angle)) * picture + np.float32(math.sin(angle) * deviation) * noise
    schedule = solver.schedule(request).cut(skipped)
    at = schedule.hops[0][0]
    got = walk(solver, schedule._replace(start=1.0), at.alpha * picture + at.sigma * noise, TorchNoise(7))
    return worst(got, loop(scheduler, torch.from_numpy(noisy), scheduler.timesteps[skipped:-1]))


@pytest.mark.parametrize(("config", "steps", "given"), SCM_GIVEN, ids=str)
def test_scm(config: dict[str, Any], steps: int, given: dict[str, Any]) -> None:
    own = {k: v for k, v in config.items() if k != "sigma_data"}
    arguments = {"num_inference_steps": steps, **given, **own}
    assert scm_off(config, Request(steps), **arguments) < 1e-5
    for skipped in {1, 2, steps - 1} & set(range(1, steps)):
        assert scm_off(config, Request(steps), skipped, **arguments) < 1e-5


def test_scm_with_its_own_angles() -> None:
    angles = [1.5, 1.2, 0.7, 0.0]
    given: dict[str, Any] = {"num_inference_steps": 3, "timesteps": angles}
    given |= {"max_timesteps": None, "intermediate_timesteps": None}
    assert scm_off({}, Request(3, timesteps=tuple(angles)), **given) < 1e-5


def test_scm_start_is_of_the_datas_deviation() -> None:
    """x = alpha * clean + sigma * noise holds at the start too, so its noise has deviation sigma_data."""
    schedule = samplers.find({"_class_name": SCM, "sigma_data": 0.7}).schedule(Request(2))
    assert schedule.start == 0.7
    assert [round(here.sigma, 4) for here, _ in schedule.hops] == [0.7, round(0.7 * math.sin(1.3), 4)]
    assert schedule.hops[-1][1] == Point(0.0, 1.0, 0.0)


def test_what_is_refused() -> None:
    def plan(name: str, request: Request = Request(4), **config: Any) -> Any:  # noqa: B008
        return samplers.find({"_class_name": name, **config}).schedule(request)

    for name, wrong in (
        (EULER, {"shift": 0.0}), (EULER, {"layout": "flux"}), (EULER, {"shift_terminal": 1.0}),
        (EULER, {"use_karras_sigmas": True, "use_beta_sigmas": True}),
        (EULER, {"invert_sigmas": True, "stochastic_sampling": True}), (LCM, {"invert_sigmas": True}),
        (HEUN, {"shift": -1.0}),
    ):  # fmt: skip
        with pytest.raises(BundleError):
            plan(name, **wrong)
    dynamic = {"use_dynamic_shifting": True}
    with pytest.raises(BundleError):
        plan(EULER, Request(4, mu=1.0), **dynamic, time_shift_type="cosine")
    with pytest.raises(BundleError):
        plan(EULER, Request(4, tokens=9), **dynamic, base_image_seq_len=4096)
    for name, request, config in (
        (EULER, Request(4), dynamic),
        (EULER, Request(4, mu=-1.0), {**dynamic, "time_shift_type": "linear"}),
        (EULER, Request(4, sigmas=(1.0, 0.5, 0.0)), {}),
        (EULER, Request(4, sigmas=(0.5, 0.5)), {}),
        (EULER, Request(4, timesteps=(1001.0, 0.5)), {}),
        (EULER, Request(4, timesteps=(900.0, 500.0), sigmas=(0.9,)), {}),
        (LCM, Request(4, sigmas=()), {}),
        (HEUN, Request(4, sigmas=(1.0, 0.5)), {}),
        (HEUN, Request(4, timesteps=(1000.0, 500.0)), {}),
        (SCM, Request(4, sigmas=(1.0, 0.5)), {}),
        (SCM, Request(4, timesteps=(1.6, 0.0)), {}),
        (SCM, Request(4, timesteps=(1.0,)), {}),
        (SCM, Request(1001), {}),
    ):
        with pytest.raises(InputError):
            plan(name, request, **config)
    for name, unsupported in (
        (LCM, {"scale_factors": [0.5, 1.0]}), (EULER, {"prediction_type": "epsilon"}),
        (SCM, {"prediction_type": "epsilon"}),
    ):  # fmt: skip
        with pytest.raises(UnsupportedError):
            plan(name, **unsupported)
