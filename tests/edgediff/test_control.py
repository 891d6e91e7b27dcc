"""What steers a denoiser, without weights: in which calls, which rows, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.bundle import TensorSpec
from edgediff.control import steering
from edgediff.errors import BundleError, NumericError
from edgediff.schedule import Point
from edgediff.schedule import Request as Steps
from edgediff.tasks.control import Control, Controls

DOWN, MIDDLE = "down_block_additional_residuals", "mid_block_additional_residual"
SCHEDULER = {
    "_class_name": "DDIMScheduler", "clip_sample": False, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "beta_end": 0.012,
}  # fmt: skip


class FakeParts:
    """Networks whose residuals are their scale, times a number of their own for each role."""

    def __init__(self, worth: Mapping[str, float], value: float = 1.0) -> None:
        self.worth = worth
        self.value = value
        self.runs: list[tuple[str, dict[str, Any]]] = []
        names = ("sample", "timestep", "encoder_hidden_states", "controlnet_cond", "conditioning_scale")
        self.inputs = [TensorSpec(name, "float32", ("batch",)) for name in names]
        self.inputs[4] = TensorSpec("conditioning_scale", "float32", (1,))

    def graph(self, role: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(inputs=tuple(self.inputs)))

    def run(self, role: str, inputs: dict[str, Any]) -> dict[str, Any]:
        self.runs.append((role, inputs))
        scale = inputs["conditioning_scale"] * np.float32(self.worth[role] * self.value)
        rows = len(inputs["sample"])
        shapes = {"down_block_res_samples.0": 4, "down_block_res_samples.1": 6, "mid_block_res_sample": 8}
        return {name: np.full((rows, channels, 2, 3), scale) for name, channels in shapes.items()}


def controls(*networks: tuple[float, float, float], guess: bool = False, rows: int = 1) -> Controls:
    """Networks by scale, start and end; the picture of row i is i everywhere."""
    pictures = np.broadcast_to(np.arange(rows, dtype=np.float32)[:, None, None, None], (rows, 3, 4, 6))
    made = [Control(f"control_{i}" if i else "control", pictures, *n) for i, n in enumerate(networks)]
    return Controls(tuple(made), guess)


def walk(
    parts: Any,
    asked: Controls,
    *,
    batch: int = 2,
    guided: bool = True,
    name: str = "ddim",
    steps: int = 10,
    stage: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Return the residuals of every network call of a walk."""
    solver = samplers.find(SCHEDULER, name)
    whole = solver.schedule(Steps(steps))
    schedule = whole if stage is None else whole.cut(*stage)
    steer = steering(parts, asked, batch, guided, solver.sampler, schedule, whole)
    found = []

    def denoise(x: Any, at: Point) -> Any:
        whole = np.concatenate([x, x]) if guided else x
        texts = np.arange(len(whole), dtype=np.float32).reshape(-1, 1, 1)
        found.append(steer(whole, at, {"encoder_hidden_states": texts}))
        return x

    start = np.arange(batch, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 4, 2, 3), np.float32)
    noise: Any = SimpleNamespace(draw=lambda shape: np.zeros(shape, np.float32))
    for _ in solver.sampler(denoise, start, schedule, noise):
        pass
    return found


def said(found: list[dict[str, Any]], name: str = MIDDLE) -> list[float]:
    """The one value of a residual in each call."""
    for each in found:
        assert each.keys() == {f"{DOWN}.0", f"{DOWN}.1", MIDDLE}
        assert np.ptp(each[name]) == 0
    return [float(each[name].flat[0]) for each in found]


@pytest.mark.parametrize(
    ("name", "start", "end", "expected"),
    [
        ("ddim", 0.0, 1.0, [1] * 10),
        ("ddim", 0.3, 0.7, [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]),
        ("ddim", 0.25, 0.65, [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]),
        ("ddim", 0.0, 0.1, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("ddim", 0.41, 0.49, [0] * 10),
        ("heun", 0.0, 0.5, [1] * 9 + [0] * 10),  # 19 calls: the last hop makes one
        ("pndm", 0.5, 1.0, None),
    ],
)
def test_calls_between_start_and_end(name: str, start: float, end: float, expected: list[int] | None) -> None:
    parts = FakeParts({"control": 3.0})
    found = said(walk(parts, controls((0.5, start, end)), name=name))
    if expected is None:
        total = len(found)
        expected = [int(i / total >= start and (i + 1) / total <= end) for i in range(total)]
        assert total > 10
        assert 0 < sum(expected) < total
    assert found == [1.5 * each for each in expected]
    # Where it has no say it does not run, except once if nothing else tells the shapes.
    assert len(parts.runs) == sum(expected) + (expected[0] == 0)


@pytest.mark.parametrize(
    ("name", "stage", "expected"),
    [
        ("ddim", (0, 6), [0, 0, 0, 1, 1, 1]),
        ("ddim", (6, 10), [1, 0, 0, 0]),
        ("heun", (0, 4), [0] * 6 + [1] * 2),  # of 19 calls those from 6 to 12
        ("heun", (4, 10), [1] * 5 + [0] * 6),
    ],
)
def test_stages_share_the_whole(name: str, stage: tuple[int, int], expected: list[int]) -> None:
    parts = FakeParts({"control": 1.0})
    assert said(walk(parts, controls((1.0, 0.3, 0.7)), name=name, stage=stage)) == expected


def test_several_networks_are_added_up() -> None:
    parts = FakeParts({"control": 3.0, "control_1": 10.0})
    found = said(walk(parts, controls((0.5, 0.0, 0.5), (2.0, 0.3, 1.0))))
    assert found == [1.5] * 3 + [21.5] * 2 + [20.0] * 5
    assert [role for role, _ in parts.runs].count("control") == 5


def test_a_scale_of_zero_steers_nothing() -> None:
    parts = FakeParts({"control": 3.0})
    assert said(walk(parts, controls((0.0, 0.0, 1.0)))) == [0.0] * 10
    assert len(parts.runs) == 1


def test_rows_keep_their_pictures() -> None:
    parts = FakeParts({"control": 1.0})
    walk(parts, controls((1.0, 0.0, 1.0), rows=2), batch=4, steps=1)
    inputs = parts.runs[0][1]
    assert inputs["sample"][:, 0, 0, 0].tolist() == [0, 1, 2, 3] * 2
    assert inputs["controlnet_cond"][:, 0, 0, 0].tolist() == [0, 0, 1, 1] * 2
    assert inputs["encoder_hidden_states"].ravel().tolist() == [*range(8)]
    assert inputs["timestep"].shape == (8,)
    assert inputs["conditioning_scale"].tolist() == [1.0]


def test_guess_mode_steers_the_positive_half_and_the_depths_more() -> None:
    parts = FakeParts({"control": 1.0})
    found = walk(parts, controls((2.0, 0.0, 1.0), guess=True, rows=2), steps=1)
    inputs = parts.runs[0][1]
    assert inputs["sample"][:, 0, 0, 0].tolist() == [0, 1]
    assert inputs["encoder_hidden_states"].ravel().tolist() == [2, 3]
    assert inputs["controlnet_cond"][:, 0, 0, 0].tolist() == [0, 1]
    # Three residuals: 0.1, the geometric middle, and 1.
    for name, share in ((f"{DOWN}.0", 0.1), (f"{DOWN}.1", 0.1**0.5), (MIDDLE, 1.0)):
        values = found[0][name]
        assert values.shape[0] == 4
        assert not values[:2].any()
        assert values[2:] == pytest.approx(2 * share, rel=1e-6)


def test_guess_mode_without_guidance_has_no_halves() -> None:
    parts = FakeParts({"control": 1.0})
    found = walk(parts, controls((1.0, 0.0, 1.0), guess=True), guided=False, steps=1)
    assert found[0][f"{DOWN}.0"].shape == (2, 4, 2, 3)
    assert found[0][f"{DOWN}.0"] == pytest.approx(0.1)


def test_nan_names_the_network() -> None:
    parts = FakeParts({"control": 1.0}, value=float("nan"))
    with pytest.raises(NumericError, match=r"control: its output down_block_res_samples\.0 at timestep"):
        walk(parts, controls((1.0, 0.0, 1.0)))


def test_an_input_that_the_model_lacks() -> None:
    parts = FakeParts({"control": 1.0})
    parts.inputs.append(TensorSpec("time_ids", "float32", ("batch", 6)))
    with pytest.raises(BundleError, match="control: it reads time_ids"):
        walk(parts, controls((1.0, 0.0, 1.0)))
