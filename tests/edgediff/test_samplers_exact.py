"""Samplers against closed forms: for normally distributed data the ideal denoiser and the ODE's end are
formulas.

Clean data ~ N(m, s^2): the best clean prediction at (alpha, sigma) is the posterior mean, and the probability
flow carries x to the point of the same quantile. So a solver's order of convergence can be measured, without
a reference.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.noise import TorchNoise
from edgediff.schedule import Point, Request, Schedule

MEAN, SPREAD = 0.3, 0.5
CONFIG = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def ideal(x: np.ndarray, at: Point) -> np.ndarray:
    variance = at.alpha**2 * SPREAD**2 + at.sigma**2
    return np.asarray(MEAN + at.alpha * SPREAD**2 / variance * (x - at.alpha * MEAN))


def flow_end(x: np.ndarray, here: Point, there: Point) -> np.ndarray:
    def width(at: Point) -> float:
        return math.hypot(at.alpha * SPREAD, at.sigma)

    return np.asarray(there.alpha * MEAN + width(there) / width(here) * (x - here.alpha * MEAN))


def error(name: str, steps: int, **options: object) -> float:
    """Largest distance from the exact end of the ODE, in float64, on a smooth schedule between two fixed
    levels."""
    solver = samplers.find(CONFIG, name, **options)
    lambdas = np.linspace(-2.0, 2.0, steps + 1)  # log(alpha / sigma)
    alphas = 1 / np.sqrt(1 + np.exp(-2 * lambdas))
    points = [Point(0.0, float(a), float(math.sqrt(1 - a * a))) for a in alphas]
    schedule = Schedule(1.0, tuple(itertools.pairwise(points)))
    x = np.linspace(-2, 2, 9).reshape(1, -1)
    for step in solver.sampler(ideal, x, schedule, TorchNoise(0)):  # type: ignore[arg-type]
        last = step.x
    return float(np.abs(last - flow_end(x, points[0], points[-1])).max())


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("ddim", {"clip_sample": False}, 1),
        ("dpmpp_2m", {"final_sigmas_type": "sigma_min", "lower_order_final": False}, 2),
        (
            "dpmpp_2m",
            {"solver_type": "heun", "final_sigmas_type": "sigma_min", "lower_order_final": False},
            2,
        ),
    ],
)
def test_order_of_convergence(name: str, options: dict[str, object], order: int) -> None:
    coarse, fine = error(name, 64, **options), error(name, 128, **options)
    assert abs(math.log2(coarse / fine) - order) < 0.15, (coarse, fine)


def test_euler_order_in_sigma_space() -> None:
    errors = []
    for steps in (128, 256):
        sigmas = np.exp(np.linspace(math.log(5.0), math.log(0.1), steps + 1))
        points = [Point(0.0, 1.0, float(s)) for s in sigmas]
        schedule = Schedule(1.0, tuple(itertools.pairwise(points)))
        x = np.linspace(-4, 4, 9).reshape(1, -1)
        for step in samplers.find(CONFIG, "euler").sampler(ideal, x, schedule, TorchNoise(0)):
            last = step.x
        errors.append(np.abs(last - flow_end(x, points[0], points[-1])).max())
    assert abs(math.log2(errors[0] / errors[1]) - 1) < 0.1


def test_lcm_ends_on_the_clean_prediction_and_draws_once_per_hop_but_the_last() -> None:
    solver = samplers.find(CONFIG, "lcm")
    schedule = solver.schedule(Request(4))
    assert [here.t for here, _ in schedule.hops] == [999, 759, 499, 259]

    class Counting(TorchNoise):
        draws = 0

        def draw(self, shape: tuple[int, ...]) -> np.ndarray:
            self.draws += 1
            return super().draw(shape)

    noise = Counting(0)
    steps = list(
        solver.sampler(
            lambda x, at: np.zeros_like(x) + 0.25, TorchNoise(1).draw((1, 4, 4, 4)), schedule, noise
        )
    )
    assert noise.draws == 3
    assert np.array_equal(steps[-1].x, steps[-1].clean)
    assert np.abs(steps[-1].x - 0.25).max() < 1e-3  # boundary condition: c_skip is tiny at t = 259


def test_ddim_noise_keeps_the_variance() -> None:
    """With eta = 1 and the ideal denoiser the end has the data's mean and deviation (many steps, many
    samples)."""
    solver = samplers.find(CONFIG, "ddim", clip_sample=False, eta=1.0)
    schedule = solver.schedule(Request(200))
    noise = TorchNoise(1)
    for step in solver.sampler(ideal, noise.draw((1, 20000)), schedule, noise):  # type: ignore[arg-type]
        last = step.x
    assert abs(float(last.mean()) - MEAN) < 0.02
    assert abs(float(last.std()) - SPREAD) < 0.02
