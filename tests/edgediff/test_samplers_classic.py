"""DDPM, DDIM, Euler, Heun, linear multistep and DPM-Solver-2 against diffusers and against closed forms.

The gate is 1e-5. A few steps from sigma 14 to 0.03 are beyond float32, here and there: those are held to a
float64 run, named where they are listed.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.noise import TorchNoise
from edgediff.schedule import Point, Request, alphas_cumprod
from edgediff.sigmas import timestep_of
from tests.sampler_parity import BASE, SHAPE, Wide, compare, network, ours, reference, walk, worst

parity = pytest.mark.parity
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
STEPS = (1, 2, 3, 4, 7, 10, 14, 15, 20, 30)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
SHAPES: list[dict[str, Any]] = [
    {}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True},
]  # fmt: skip

DDIM, DDPM, EULER = "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"
ANCESTRAL, HEUN, LMS = "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"
KDPM2, KDPM2_ANCESTRAL = "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"

VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")
CASES: list[tuple[str, dict[str, Any]]] = [
    *((DDPM, {"clip_sample": False, "prediction_type": p, "timestep_spacing": s})
      for p, s in itertools.product(PREDICTIONS, SPACINGS)),
    *((DDPM, {"variance_type": v, "clip_sample_range": 0.8, "timestep_spacing": s})
      for v, s in itertools.product(VARIANCES, SPACINGS)),
    *((DDPM, {"variance_type": v, "clip_sample": False, "steps_offset": 1}) for v in VARIANCES),
    *((DDPM, {"clip_sample": False, **ZERO_SNR, "timestep_spacing": s}) for s in SPACINGS),
    (DDPM, {"thresholding": True, "sample_max_value": 1.5}),
    (DDPM, {"clip_sample": False, **COSINE}),
    *((ANCESTRAL, {"timestep_spacing": s}) for s in SPACINGS),
    (ANCESTRAL, {"timestep_spacing": "leading", "steps_offset": 1}),
    (ANCESTRAL, {"timestep_spacing": "leading", "prediction_type": "v_prediction"}),
    (ANCESTRAL, {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
    (ANCESTRAL, {"timestep_spacing": "leading", **ZERO_SNR}),
    *((EULER, {**shape, "prediction_type": p, "timestep_spacing": s})
      for shape, p, s in itertools.product(SHAPES, PREDICTIONS, SPACINGS)
      if not (shape == SHAPES[3] and (p, s) == ("v_prediction", "linspace"))),
    *((EULER, {**shape, "final_sigmas_type": f, "interpolation_type": i})
      for shape, f, i in itertools.product(SHAPES, ("zero", "sigma_min"), ("linear", "log_linear"))),
    *((EULER, {**shape, "timestep_type": "continuous", "prediction_type": p})
      for shape, p in itertools.product(SHAPES, ("epsilon", "v_prediction"))),
    *((EULER, {**shape, "sigma_min": 0.05, "sigma_max": 10.0}) for shape in SHAPES),
    *((c, {**shape, "prediction_type": p, "timestep_spacing": s})
      for c, shape, p, s in itertools.product((HEUN, LMS), SHAPES, PREDICTIONS, ("leading", "trailing"))
      if (c, shape, p, s) != (LMS, SHAPES[2], "sample", "trailing")),
    *((c, {**shape, "timestep_spacing": "leading", "steps_offset": 1})
      for c, shape in itertools.product((HEUN, LMS, KDPM2, KDPM2_ANCESTRAL), SHAPES)),
    *((LMS, {**shape, "prediction_type": p})
      for shape, p in itertools.product(SHAPES[:3], PREDICTIONS)),
    (HEUN, {"prediction_type": "v_prediction"}),
    (HEUN, {"clip_sample": True, "clip_sample_range": 0.7, "prediction_type": "v_prediction"}),
    (HEUN, {"clip_sample": True, "clip_sample_range": 0.7, "timestep_spacing": "trailing"}),
    *((c, {**COSINE, "timestep_spacing": "leading"}) for c in (HEUN, LMS, KDPM2)),
    *((c, {**shape, "timestep_spacing": s})
      for c, shape, s in itertools.product((KDPM2, KDPM2_ANCESTRAL), SHAPES, ("leading", "trailing"))),
    *((KDPM2, {**shape, "prediction_type": "v_prediction"}) for shape in SHAPES),
]  # fmt: skip


@parity
@pytest.mark.parametrize(("class_name", "extra"), CASES, ids=lambda v: str(v)[:100])
def test_options(class_name: str, extra: dict[str, Any]) -> None:
    assert max(differences(class_name, extra).values()) < 1e-5


# The network, called at sigma 0.03, decides over a step of 14 (HEUN), or weights of the size of 1 / 0.03
# (LMS): float32 leaves 1e-5 to 5e-5 of both. Steps that are not named here are within the gate.
HARD: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    *((HEUN, {**shape, "prediction_type": p}, (2, 3, 4))
      for shape, p in itertools.product(SHAPES, ("epsilon", "sample"))),
    *((HEUN, {"clip_sample": True, "clip_sample_range": 0.7, "prediction_type": p}, (2,))
      for p in ("epsilon", "sample")),
    *((LMS, {**SHAPES[3], "prediction_type": p}, (3,)) for p in PREDICTIONS),
    (LMS, {**SHAPES[2], "prediction_type": "sample", "timestep_spacing": "trailing"}, (30,)),
]  # fmt: skip


@parity
@pytest.mark.parametrize(("class_name", "extra", "hard"), HARD, ids=lambda v: str(v)[:90])
def test_hard_steps_agree_in_float64(class_name: str, extra: dict[str, Any], hard: tuple[int, ...]) -> None:
    """diffusers' scheduler itself, in float64."""
    assert max(v for n, v in differences(class_name, extra).items() if n not in hard) < 1e-5
    for steps in hard:
        agree64(class_name, extra, steps)


# Without a name in diffusers that stays in float64: Euler's classes round the sample, and the ancestral ones
# lose the digits of sqrt(to^2 - up^2). At sigma 20000 (cosine betas) they are NaN or wrong by percents.
SLOPES: list[tuple[str, dict[str, Any]]] = [
    (EULER, {"use_beta_sigmas": True, "prediction_type": "v_prediction"}),
    (ANCESTRAL, {"prediction_type": "v_prediction"}),
    *((ANCESTRAL, {**ZERO_SNR, "timestep_spacing": s}) for s in ("linspace", "trailing")),
    *((c, {**COSINE, "prediction_type": "v_prediction", "timestep_spacing": s})
      for c, s in itertools.product((EULER, ANCESTRAL, HEUN, LMS), ("linspace", "trailing"))),
    *((ANCESTRAL, {**COSINE, "timestep_spacing": s}) for s in ("linspace", "trailing")),
    *((c, {**COSINE, "prediction_type": "v_prediction"}) for c in (KDPM2, KDPM2_ANCESTRAL)),
    *((KDPM2_ANCESTRAL, {**shape, "prediction_type": "v_prediction"}) for shape in SHAPES),
    (KDPM2_ANCESTRAL, {**COSINE, "timestep_spacing": "leading"}),
]  # fmt: skip


@parity
@pytest.mark.parametrize(("class_name", "extra"), SLOPES, ids=lambda v: str(v)[:90])
def test_huge_steps_agree_with_slopes_in_float64(class_name: str, extra: dict[str, Any]) -> None:
    """The same in the form of slopes, in float64, written here (``slopes64``)."""
    solver, _ = pair(class_name, {**BASE, **extra})
    for steps in STEPS:
        got = walks(solver, steps)
        expected = slopes64(solver, class_name, steps)
        assert worst(got[1], expected) < 1e-6, steps
        assert worst(got[0], expected) < 2e-5, steps


def test_epsilon_at_huge_sigma_agrees_with_slopes_in_float64() -> None:
    """What epsilon says at sigma 20000 leaves nothing of the clean sample to float32, so float64 alone."""
    for class_name, steps in itertools.product((HEUN, LMS, KDPM2, KDPM2_ANCESTRAL), STEPS):
        solver = samplers.find({**BASE, **COSINE, "_class_name": class_name})
        assert worst(walks(solver, steps)[1], slopes64(solver, class_name, steps)) < 1e-5, (class_name, steps)


def pair(class_name: str, config: dict[str, Any], **options: Any) -> tuple[samplers.Solver, Any]:
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, class_name)(**config)
    return samplers.find({**scheduler.config, "_class_name": class_name}, **options), scheduler


def differences(class_name: str, extra: dict[str, Any], **options: Any) -> dict[int, float]:
    """``compare`` for every number of steps, with one scheduler: some take a second to make."""
    _, scheduler = pair(class_name, {**BASE, **extra})
    saved, x = {**scheduler.config, "_class_name": class_name}, TorchNoise(3).draw(SHAPE)
    return {
        n: worst(ours(saved, None, x, Request(n), **options), reference(scheduler, x, n, **options))
        for n in STEPS
    }


def agree64(class_name: str, extra: dict[str, Any], steps: int) -> None:
    solver, scheduler = pair(class_name, {**BASE, **extra})
    got, expected = walks(solver, steps), reference64(solver, scheduler, steps)
    assert worst(got[1], expected) < 1e-7, steps
    assert worst(got[0], expected) < 5e-5, steps


def walks(solver: samplers.Solver, steps: int) -> list[np.ndarray]:
    """Ours in float32 and in float64, from the same noise."""
    schedule, x = solver.schedule(Request(steps)), TorchNoise(3).draw(SHAPE)
    return [walk(solver, schedule, x, TorchNoise(7)), walk(solver, schedule, x.astype(np.float64), Wide(7))]


def reference64(solver: samplers.Solver, scheduler: Any, steps: int) -> np.ndarray:
    """diffusers' loop in float64, with the sigmas before they were rounded to float32."""
    import torch

    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "sigmas"):
        sigmas = [here.sigma for here, _ in solver.schedule(Request(steps)).hops]
        exact = [sigmas[0], *np.repeat(sigmas[1:], scheduler.order), 0.0]
        assert np.allclose(scheduler.sigmas, exact, rtol=1e-6)
        scheduler.sigmas = torch.tensor(exact, dtype=torch.float64)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    sample = scheduler.init_noise_sigma * torch.from_numpy(TorchNoise(3).draw(SHAPE)).double()
    for t in scheduler.timesteps:
        out = network(scheduler.scale_model_input(sample, t), t.double(), torch)
        sample = scheduler.step(out, t, sample, return_dict=False)[0]
    assert sample.dtype == torch.float64
    return np.asarray(sample.numpy())


def slopes64(solver: samplers.Solver, class_name: str, steps: int) -> np.ndarray:
    """Euler, Heun, Adams-Bashforth and midpoint steps along dx / dsigma = (x - clean) / sigma, in float64."""
    schedule, noise = solver.schedule(Request(steps)), Wide(7)
    x = schedule.start * TorchNoise(3).draw(SHAPE).astype(np.float64)
    table = np.sqrt(1 / alpha_bars(solver) - 1)
    ancestral = class_name in (ANCESTRAL, KDPM2_ANCESTRAL)

    def slope(x: np.ndarray, sigma: float, t: float) -> np.ndarray:
        radius = math.hypot(1, sigma)
        out = network(x / radius, np.float64(t), np)
        if solver.config["prediction_type"] == "epsilon":
            return np.asarray(out)
        return np.asarray((x - x / radius**2 + sigma / radius * out) / sigma)

    past: list[np.ndarray] = []
    levels: list[float] = []
    for here, there in schedule.hops:
        end = there.sigma**2 / here.sigma if ancestral else there.sigma
        rate = slope(x, here.sigma, here.t)
        if class_name in (KDPM2, KDPM2_ANCESTRAL) and end > 0:
            middle = math.exp((math.log(here.sigma) + math.log(end)) / 2)
            t = float(timestep_of(np.asarray([middle]), table)[0])
            rate = slope(x + (middle - here.sigma) * rate, middle, t)
        elif class_name == HEUN and end > 0:
            rate = (rate + slope(x + (end - here.sigma) * rate, end, there.t)) / 2
        elif class_name == LMS:
            past, levels = [*past[-3:], rate], [*levels[-3:], here.sigma]
            # Gauss and Legendre's rule with two nodes is exact for the cubic through four slopes.
            nodes = [here.sigma + (end - here.sigma) * (0.5 + side / math.sqrt(12)) for side in (-1, 1)]
            rate = sum(_through(levels, past, node) for node in nodes) / 2
        x = x + (end - here.sigma) * rate
        if ancestral and (there.sigma > 0 or class_name == ANCESTRAL):
            x = x + math.sqrt(there.sigma**2 - end**2) * noise.draw(SHAPE)
    return np.asarray(x)


def _through(levels: list[float], values: list[np.ndarray], at: float) -> Any:
    """Lagrange's polynomial."""
    total: Any = 0.0
    for k, value in enumerate(values):
        others = levels[:k] + levels[k + 1 :]
        total = total + value * math.prod((at - other) / (levels[k] - other) for other in others)
    return total


def alpha_bars(solver: samplers.Solver) -> np.ndarray:
    bars = alphas_cumprod(solver.config)
    if solver.config.get("rescale_betas_zero_snr"):
        bars[-1] = 2.0**-24
    return np.asarray(bars)


CLIPS: list[dict[str, Any]] = [
    {"clip_sample_range": 0.7}, {"thresholding": True, "sample_max_value": 1.5}, ZERO_SNR,
]  # fmt: skip
STEP_OPTIONS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((LMS, {}, {"order": order}) for order in (1, 2, 3, 5)),
    *((DDIM, {**extra, "timestep_spacing": s}, {"eta": eta, "use_clipped_model_output": clipped})
      for extra, s, eta, clipped in itertools.product(CLIPS, SPACINGS, (0.0, 0.6, 1.0), (False, True))
      # diffusers takes the root of 1 - alpha_bar - deviation^2 there, which is 0, and gets 2e-4 or NaN.
      if not (extra == ZERO_SNR and eta == 1 and s != "leading")),
]  # fmt: skip


@parity
@pytest.mark.parametrize(("class_name", "extra", "options"), STEP_OPTIONS, ids=lambda v: str(v)[:60])
def test_options_of_step(class_name: str, extra: dict[str, Any], options: dict[str, Any]) -> None:
    assert max(differences(class_name, extra, **options).values()) < 1e-5


CUSTOM: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (DDPM, {"clip_sample": False}, {"timesteps": [999, 640, 320, 12, 0]}),
    (DDPM, {"clip_sample": False, "variance_type": "fixed_large"}, {"timesteps": [999, 640, 320, 12]}),
    (HEUN, {}, {"timesteps": [999.0, 640.5, 320.0, 12.0]}),
    (EULER, {"timestep_type": "continuous", "prediction_type": "v_prediction"},
     {"sigmas": [12.0, 5.0, 1.5, 0.3, 0.0]}),
]  # fmt: skip


@parity
@pytest.mark.parametrize(("class_name", "extra", "custom"), CUSTOM, ids=lambda v: str(v)[:60])
def test_custom_steps(class_name: str, extra: dict[str, Any], custom: dict[str, Any]) -> None:
    pytest.importorskip("diffusers")
    assert compare(class_name, {**BASE, **extra}, 1, **custom) < 1e-5


@parity
@pytest.mark.parametrize("class_name", [HEUN, LMS, KDPM2, KDPM2_ANCESTRAL])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ends_of_another_class_are_read(class_name: str, shape: dict[str, Any]) -> None:
    """``from_config`` keeps Euler's sigma_min and sigma_max; Karras sigmas of LMS alone ignore them."""
    diffusers = pytest.importorskip("diffusers")
    config = diffusers.EulerDiscreteScheduler(**BASE, **shape, sigma_min=0.05, sigma_max=10.0).config
    theirs = getattr(diffusers, class_name).from_config(config)
    theirs.set_timesteps(8)
    name = samplers.name_of(class_name)
    solver = samplers.find({**config, "_class_name": EULER}, name)
    sigmas = [here.sigma for here, _ in solver.schedule(Request(8)).hops]
    assert np.allclose(sigmas, theirs.sigmas.unique().flip(0)[:-1], rtol=1e-6)


def cut_difference(
    solver: samplers.Solver, scheduler: Any, steps: int, cut: int, kind: Any = np.float32, **options: Any
) -> float:
    """Image to image: both start from a noised picture, ``cut`` hops down the schedule."""
    torch = pytest.importorskip("torch")
    schedule = solver.schedule(Request(steps)).cut(cut)._replace(start=1.0)
    clean, drawn = (TorchNoise(seed).draw(SHAPE).astype(kind) for seed in (5, 3))
    at = schedule.hops[0][0]
    x = kind(at.alpha) * clean + kind(at.sigma) * drawn
    exact = [walk(solver, schedule, x.astype(np.float64), Wide(7), by_table) for by_table in (False, True)]
    assert worst(exact[1], exact[0]) < 1e-9, "the table differs from its sampler"
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps[cut * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(cut * scheduler.order)
    if kind == np.float64:
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    start = scheduler.add_noise(torch.from_numpy(clean), torch.from_numpy(drawn), times[:1])
    expected = reference(Frozen(scheduler, times), start.numpy(), steps, **options)
    return worst(walk(solver, schedule, x, TorchNoise(7)) if kind == np.float32 else exact[0], expected)


class Frozen:
    """A scheduler whose timesteps are set and whose start is given, for ``reference``."""

    def __init__(self, scheduler: Any, times: Any) -> None:
        self.timesteps, self.step = times, scheduler.step
        self.scale_model_input = scheduler.scale_model_input

    def set_timesteps(self, steps: int) -> None:
        """Leave them as they are."""


CUTS: list[tuple[str, dict[str, Any]]] = [
    (DDIM, {"clip_sample": False}),
    (DDPM, {"clip_sample": False, "prediction_type": "v_prediction"}),
    (EULER, {"use_beta_sigmas": True}),
    *((c, {"timestep_spacing": s})
      for c, s in itertools.product((ANCESTRAL, HEUN, LMS, KDPM2, KDPM2_ANCESTRAL), SPACINGS)),
    *((c, {**shape, "timestep_spacing": "leading"})
      for c, shape in itertools.product((HEUN, LMS, KDPM2, KDPM2_ANCESTRAL), SHAPES[1:])),
]  # fmt: skip


@parity
@pytest.mark.parametrize(("class_name", "extra"), CUTS, ids=lambda v: str(v)[:90])
def test_cut_schedules(class_name: str, extra: dict[str, Any]) -> None:
    both = pair(class_name, {**BASE, **extra})
    for steps in (4, 7, 20):
        for cut in (1, 2, 3, steps - 1):
            assert cut_difference(*both, steps, cut) < 1e-5, (steps, cut)


MEAN, SPREAD = 0.3, 0.5


def ideal(x: np.ndarray, at: Point) -> np.ndarray:
    """The posterior's mean for clean data N(MEAN, SPREAD^2)."""
    variance = at.alpha**2 * SPREAD**2 + at.sigma**2
    return np.asarray(MEAN + at.alpha * SPREAD**2 / variance * (x - at.alpha * MEAN))


def test_ancestral_euler_is_ddpm_in_another_scale() -> None:
    """Both draw from the posterior: x / alpha of the one is x of the other."""
    ddpm = samplers.find(BASE, "ddpm", clip_sample=False, timestep_spacing="trailing")
    schedule, x = ddpm.schedule(Request(12)), TorchNoise(1).draw((2, 64))
    hops = tuple((_exploding(here), _exploding(there)) for here, there in schedule.hops)

    def denoise(x: Any, at: Point) -> Any:
        return ideal(x, at)

    ours = ddpm.sampler(denoise, x, schedule, TorchNoise(2))
    start = x / np.float32(schedule.hops[0][0].alpha)
    theirs = samplers.find(BASE, "euler_ancestral").sampler(
        denoise, start, schedule._replace(hops=hops), TorchNoise(2)
    )
    for a, b, (_, there) in zip(ours, theirs, schedule.hops, strict=True):
        assert worst(a.x / there.alpha, b.x) < 1e-5


def _exploding(at: Point) -> Point:
    return Point(at.t, 1.0, at.sigma / at.alpha)


@pytest.mark.parametrize("extra", [{}, {**ZERO_SNR, "timestep_spacing": "trailing"}], ids=str)
def test_ddpm_is_ddim_with_its_variance(extra: dict[str, Any]) -> None:
    """Eq. 16 of DDIM with eta = 1, where the list's neighbours are one stride apart."""
    ends = []
    for name, options in (("ddpm", {}), ("ddim", {"eta": 1.0})):
        solver = samplers.find({**BASE, **extra}, name, clip_sample=False, **options)
        ends.append(walk(solver, solver.schedule(Request(20)), TorchNoise(3).draw(SHAPE), TorchNoise(7)))
    assert worst(*ends) < 1e-5


def test_fixed_large_log_is_fixed_large() -> None:
    """diffusers takes the root of a logarithm there, which is NaN."""
    x = TorchNoise(3).draw(SHAPE)
    ends = []
    for kind in ("fixed_large", "fixed_large_log"):
        solver = samplers.find(BASE, "ddpm", variance_type=kind)
        ends.append(walk(solver, solver.schedule(Request(7)), x, TorchNoise(7)))
    assert worst(*ends) == 0
