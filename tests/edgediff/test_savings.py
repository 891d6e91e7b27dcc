"""What a call leaves out: guidance outside an interval, passes between steps; what is refused; prompts that
are encoded once. A network that is a formula stands for the denoiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff import guidance_interval, sampler, step_cache
from edgediff.denoise import denoiser
from edgediff.errors import InputError, UnsupportedError
from edgediff.noise import stream
from edgediff.schedule import Point, Request

CONFIG: dict[str, Any] = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
    "prediction_type": "epsilon",
}  # fmt: skip


class Asked:
    """The ideal network for clean data N(m, s^2), epsilon by formula; counts where it was asked."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def __call__(self, x: Any, at: Point) -> Any:
        self.points.append(at)
        variance = at.alpha**2 * 0.25 + at.sigma**2
        return (at.sigma * (x - at.alpha * 1.5) / variance).astype(np.float32)


def walked(name: str, steps: int) -> tuple[Asked, Any]:
    solver = sampler.find(CONFIG, name)
    schedule = solver.schedule(Request(steps))
    asked = Asked()
    start = np.float32(schedule.start) * stream("numpy", 0).draw((1, 1, 4, 4))
    walk = solver.sampler(denoiser(asked, solver.conversion), start, schedule, stream("numpy", 1))
    assert len(list(walk)) == steps
    return asked, schedule


def test_interval_by_steps() -> None:
    """Euler, 10 steps: those from int(0.2 * 10) on and before int(0.75 * 10), as diffusers' guiders count."""
    asked, schedule = walked("euler", 10)
    inside = guidance_interval.within(schedule, 0.2, 0.75)
    assert [inside(at) for at in asked.points] == [2 <= i < 7 for i in range(10)]
    everywhere = guidance_interval.within(schedule, 0, 1)
    assert all(everywhere(at) for at in asked.points)


def test_interval_of_solvers_that_ask_twice() -> None:
    """Heun asks at both ends of a step: what lies at the interval's lower end is outside."""
    asked, schedule = walked("heun", 10)
    assert len(asked.points) > 10
    inside = guidance_interval.within(schedule, 0.2, 0.8)
    levels = [here.sigma / here.alpha for here, _ in schedule.hops]
    for at in asked.points:
        level = at.sigma / at.alpha if at.alpha else np.inf
        assert inside(at) == (levels[8] * (1 + 1e-6) < level <= levels[2] * (1 + 1e-6))


def test_features_are_kept_for_the_rows_and_points_they_belong_to() -> None:
    schedule = sampler.find(CONFIG, "ddim").schedule(Request(12))
    kept = step_cache.kept(schedule, 3)
    points = [here for here, _ in schedule.hops]
    assert kept.at(points[1], 2) is None, "nothing was kept yet"
    kept.features = np.ones((2, 1), np.float32)
    assert [kept.at(at, 2) is None for at in points] == [i % 3 == 0 for i in range(12)]
    assert kept.at(points[1], 1) is None, "kept for other rows"


@pytest.fixture(scope="module")
def embedded() -> Any:
    with edgediff.load(threads=1) as pipe:
        yield pipe


def test_arguments_are_checked_first(embedded: Any) -> None:
    """The embedded model was distilled with guidance, for few steps: there is nothing to leave out."""
    for arguments, words in (
        ({"guidance_interval": (0.2, 0.8)}, "nothing is guided"),
        ({"guidance_interval": (0.8, 0.2)}, "not below"),
        ({"guidance_interval": (-1, 1)}, "between"),
        ({"guidance_interval": "0,1"}, "pair"),
        ({"guidance_interval": 0.5}, "pair"),
        ({"step_cache": 2.5}, "whole number"),
        ({"step_cache": 99}, "whole number"),
        ({"decoder": "huge"}, "full or tiny"),
    ):
        with pytest.raises(InputError, match=words):
            embedded("a red circle", **arguments)
    with pytest.raises(UnsupportedError, match="--tiny-decoder"):
        embedded("a red circle", decoder="tiny")
    with pytest.raises(UnsupportedError, match="--step-cache"):
        embedded("a red circle", step_cache=2)
    assert not embedded.infos(), "nothing was loaded"


def test_equal_prompts_are_encoded_once(embedded: Any) -> None:
    """Across calls, and within one; another prompt is encoded anew, and the picture is that of no cache."""
    parts = embedded._parts
    counted: list[str] = []
    run = parts.run
    parts.run = lambda role, inputs: counted.append(role) or run(role, inputs)
    options: dict[str, Any] = {"num_inference_steps": 1, "seed": 1, "output_type": "np"}
    try:
        first = embedded(["a red circle"] * 2, **options).images
        assert counted.count("text_encoder") == 1
        again = embedded(["a red circle"] * 2, **options).images
        assert counted.count("text_encoder") == 1
        embedded("a blue square", **options)
        assert counted.count("text_encoder") == 2
        parts.memory.clear()
        anew = embedded(["a red circle"] * 2, **options).images
        assert counted.count("text_encoder") == 3
    finally:
        del parts.run
    assert np.array_equal(first, again) and np.array_equal(first, anew)
