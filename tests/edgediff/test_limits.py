"""What a recipe puts into a manifest, at run time: its timesteps, and limits outside of which a call warns or
is refused."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff.errors import InputError
from edgediff.runtimes.null import NullGraph
from tests import tiny, tiny_xl


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each run of a graph is fed. Text encoders give their first real token's number, everywhere."""
    seen: list[dict[str, Any]] = []
    plain = NullGraph.__call__

    def call(self: NullGraph, inputs: Any) -> Any:
        seen.append(dict(inputs))
        outputs = plain(self, inputs)
        if "input_ids" in inputs:
            outputs = {name: array + np.float32(inputs["input_ids"][0, 1]) for name, array in outputs.items()}
        return outputs

    monkeypatch.setattr(NullGraph, "__call__", call)
    return seen


LCM = {**tiny.SCHEDULER, "_class_name": "LCMScheduler", "original_inference_steps": 50}


def recipe(folder: Path, **defaults: Any) -> edgediff.Pipeline:
    """A bundle with a few-step recipe, opened."""
    tiny.write_bundle(folder, scheduler=LCM)
    told = json.loads((folder / "edgediff.json").read_text())
    told["format_version"] = "1.2"
    told["defaults"] |= {"sampler": "lcm", "num_inference_steps": 3, "guidance_scale": 0.0, "recipe": "turbo"}
    told["defaults"] |= copy.deepcopy(defaults)
    tiny_xl.rewrite(folder, told)
    return edgediff.load(folder, runtime="null")


def times(pipe: edgediff.Pipeline, fed: list[dict[str, Any]], **options: Any) -> list[float]:
    fed.clear()
    pipe("red", **options)
    return [float(inputs["timestep"]) for inputs in fed if "timestep" in inputs]


def test_timesteps_of_a_recipe(tmp_path: Path, fed: list[dict[str, Any]]) -> None:
    with recipe(tmp_path / "bundle", timesteps=[999, 499, 99]) as pipe:
        assert times(pipe, fed) == [999, 499, 99]
        assert times(pipe, fed, sampler="lcm") == [999, 499, 99]
        assert times(pipe, fed, num_inference_steps=2) != [999, 499, 99]
        assert times(pipe, fed, timesteps=[799, 99]) == [799, 99]
        assert len(times(pipe, fed, sampler="euler", num_inference_steps=2)) == 2
        assert times(pipe, fed, sampler="ddim") != [999, 499, 99]


LIMITS = {
    "guidance_scale": {"low": 0, "high": 0, "outside": "warn"},
    "num_inference_steps": {"low": 2, "high": 4, "outside": "refuse"},
}


def test_limits_of_a_recipe(tmp_path: Path) -> None:
    with recipe(tmp_path / "bundle", limits=LIMITS) as pipe:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for options in ({}, {"guidance_scale": 0}, {"guidance_scale": 1}, {"num_inference_steps": 4}):
                pipe("red", **options)  # type: ignore[arg-type]
        with pytest.warns(
            UserWarning, match=r"^guidance_scale: 5 was asked for; .* made for 0 \(recipe turbo"
        ):
            pipe("red", guidance_scale=5)
        with pytest.raises(InputError, match=r"num_inference_steps: 5 was asked for; .* for 2 to 4"):
            pipe("red", num_inference_steps=5)
        with pytest.raises(InputError, match="num_inference_steps: 1 was asked for"):
            pipe("red", timesteps=[999])


def test_limits_of_guidance_that_is_an_input(tmp_path: Path) -> None:
    from edgediff.tasks.limits import check_limits

    with recipe(
        tmp_path / "bundle", limits={"guidance_scale": {"low": 2, "high": 14, "outside": "refuse"}}
    ) as pipe:
        with pytest.raises(InputError, match="2 to 14"):
            check_limits(pipe.bundle, {"guidance_scale": 1.0})
        check_limits(pipe.bundle, {"guidance_scale": 2.0, "num_inference_steps": 900})
        check_limits(pipe.bundle, {"guidance_scale": None})
