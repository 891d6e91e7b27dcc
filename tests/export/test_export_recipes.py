"""Few-step recipes: what they put into the manifest, and what they are recognised by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from export_helpers import DDIM, TINY_UNET, model_folder

from edgediff import sampler as samplers
from edgediff.bundle import Bundle
from edgediff.errors import InputError
from edgediff.export.main import export_onnx
from edgediff.export.recipes import RECIPES, named, recognised
from edgediff.schedule import Request

NAMES = {
    "stabilityai/sdxl-turbo": "turbo",
    "stabilityai/sd-turbo": "turbo",
    "ByteDance/SDXL-Lightning-4step": "lightning-4",
    "IDKiro/sdxs-512-0.9": "sdxs",
    "latent-consistency/lcm-lora-sdv1-5": "lcm-lora",
    "Hyper-SD, 8 steps adapter": "hyper-8",
    "Hyper-SD, 1 step adapter": "hyper-unified",
    "Lightning, 2 steps adapter": "lightning-2",
    "LCM adapter": "lcm-lora",
    "TCD adapter": "tcd",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": None,
    "an-artist/turboprop-planes": None,
    "lightning-strikes": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_recognised_by_name(name: str) -> None:
    found = recognised(DDIM, False, [name])
    assert (found and found[0].name) == NAMES[name]


def test_recognised_by_what_the_model_is() -> None:
    told = [
        recognised({"_class_name": "LCMScheduler"}, True, []),
        recognised({"_class_name": "LCMScheduler"}, False, []),
        recognised({"_class_name": "TCDScheduler"}, False, []),
    ]
    assert [found[0].name for found in told if found is not None] == ["lcm", "lcm-lora", "tcd"]
    assert recognised(DDIM, False, []) is None


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_sampled(name: str) -> None:
    """Its scheduler is one of ours, and takes its steps and timesteps."""
    recipe = RECIPES[name]
    config = recipe.scheduler({"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1})
    solver = samplers.find(config)
    timesteps = recipe.timesteps
    schedule = solver.schedule(Request(recipe.steps, timesteps))
    assert len(schedule.hops) == recipe.steps
    assert schedule.hops[0][0].t >= 399  # all of them begin from noise
    assert recipe.fewest <= recipe.steps <= recipe.most
    assert recipe.least_guidance <= recipe.guidance <= recipe.most_guidance
    if timesteps is not None:
        assert [here.t for here, _ in schedule.hops] == list(timesteps)


def manifest(folder: Path, out: Path, **choices: Any) -> dict[str, Any]:
    export_onnx(str(folder), str(out), verify=False, overwrite=True, **choices)
    Bundle.open(out)
    found: dict[str, Any] = json.loads((out / "edgediff.json").read_text(encoding="utf-8"))
    return found


def test_told(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    found = manifest(folder, tmp_path / "out", recipe="lightning-4")
    assert found["model"]["scheduler"]["_class_name"] == "EulerDiscreteScheduler"
    assert found["model"]["scheduler"]["timestep_spacing"] == "trailing"
    assert found["defaults"]["num_inference_steps"] == 4
    assert found["defaults"]["guidance_scale"] == 0
    assert found["defaults"]["recipe"] == "lightning-4"
    assert [table["num_inference_steps"] for table in found["tables"]] == [4]
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.defaults.limits["num_inference_steps"].high == 4
    found = manifest(folder, tmp_path / "out", recipe="dmd2")
    assert found["defaults"]["timesteps"] == [999, 749, 499, 249]


def test_none_forbids_what_would_be_recognised(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", unet={**TINY_UNET, "time_cond_proj_dim": 6})
    lines: list[str] = []
    found = manifest(folder, tmp_path / "out", report=lines.append)
    assert found["defaults"]["recipe"] == "lcm"
    assert found["model"]["scheduler"]["_class_name"] == "LCMScheduler"
    assert any("drawn as lcm models are" in line for line in lines)
    found = manifest(folder, tmp_path / "out", recipe="none")
    assert "recipe" not in found["defaults"]
    assert found["model"]["scheduler"]["_class_name"] == "DDIMScheduler"


def test_unknown() -> None:
    with pytest.raises(InputError, match="'fast' is unknown; known are lcm, lcm-lora"):
        named("fast")
    assert named("none") is None


def test_the_page_lists_every_recipe() -> None:
    from benchmarks import recipes as pages

    text = pages.PAGE.read_text(encoding="utf-8")
    assert pages.page(text) == text, "run python -m benchmarks.recipes"
