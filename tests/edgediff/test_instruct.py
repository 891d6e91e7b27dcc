"""Instructions without weights: the three branches in closed form, what is fed, what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgediff
from edgediff import tasks
from edgediff.bundle import Bundle
from edgediff.denoise import guided, guided_twice
from edgediff.errors import InputError
from edgediff.runtimes.null import NullGraph
from edgediff.schedule import Point
from edgediff.tasks import instruct
from tests.edgediff import control_bundle

HERE = Point(500.0, 0.6, 0.8)


def change(manifest: dict[str, Any]) -> None:
    """Make it a bundle for instructions."""
    manifest["model"]["tasks"] = ["instruct"]
    del manifest["model"]["controls"], manifest["components"]["control"]
    del manifest["components"]["controlled_denoiser"]
    manifest["components"]["denoiser"]["graphs"][0]["inputs"][0]["dims"][1] = 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return control_bundle.write(tmp_path_factory.mktemp("instruct") / "bundle", change=change)


def picture(width: int = 32, height: int = 24, grey: int = 128) -> Image.Image:
    return Image.new("RGB", (width, height), (grey, grey, grey))


def branches(*values: float) -> Any:
    """A network that says one number for each branch, times the sample."""

    def network(x: Any, at: Point) -> Any:
        told = np.repeat(np.float32(values), len(x) // len(values)).reshape(-1, 1, 1, 1)
        return told * x

    return network


def test_three_branches() -> None:
    x = np.random.RandomState(0).standard_normal((2, 4, 3, 3)).astype(np.float32)
    out = guided_twice(branches(7, 3, 2), 5.0, 1.5)(x, HERE)
    assert out == pytest.approx((2 + 5.0 * (7 - 3) + 1.5 * (3 - 2)) * x, rel=1e-6)
    # A picture scale equal to the text's leaves the branch between them out: ordinary guidance.
    both = guided_twice(branches(7, 3, 2), 4.0, 4.0)(x, HERE)
    assert both == pytest.approx(guided(branches(2, 7), 4.0)(x, HERE), rel=1e-6)


def test_rescale_goes_towards_the_branch_that_is_told_all() -> None:
    x = np.random.RandomState(0).standard_normal((2, 4, 3, 3)).astype(np.float32)
    out = guided_twice(branches(7, 3, 2), 5.0, 1.5, rescale=1.0)(x, HERE)
    assert out == pytest.approx(7 * x, rel=1e-5)


def test_what_each_branch_is_fed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[dict[str, Any]] = []
    original = NullGraph.__call__

    def call(self: NullGraph, inputs: Mapping[str, Any]) -> dict[str, Any]:
        outputs = original(self, inputs)
        names = {spec.name for spec in self.info.inputs}
        if names == {"input_ids"}:  # the text's states are its first token after the start
            ids = inputs["input_ids"][:, 1].astype(np.float32)
            return {name: value + ids.reshape(-1, 1, 1) for name, value in outputs.items()}
        if "latent_parameters" in outputs:  # the mean is the picture's grey, the variance large
            outputs["latent_parameters"][:] = 9
            outputs["latent_parameters"][:, :4] = inputs["sample"].mean(axis=(1, 2, 3)).reshape(-1, 1, 1, 1)
        if "timestep" in names:
            fed.append(dict(inputs))
        return outputs

    monkeypatch.setattr(NullGraph, "__call__", call)
    with edgediff.load(bundle, runtime="null") as pipe:
        images = [picture(grey=255), picture(grey=0)]
        pipe.instruct(["a", "b"], images, num_images_per_prompt=2, num_inference_steps=1, seed=0)
    (inputs,) = fed
    sample, texts = inputs["sample"], inputs["encoder_hidden_states"][:, 0, 0]
    assert sample.shape == (12, 8, 3, 4)
    assert np.array_equal(sample[:4, :4], sample[4:8, :4])
    assert np.array_equal(sample[:4, :4], sample[8:, :4])
    # Means as the encoder gives them, neither scaled nor drawn; nothing for the last branch.
    assert sample[:, 4, 0, 0].tolist() == [1, 1, -1, -1, 1, 1, -1, -1, 0, 0, 0, 0]
    assert np.ptp(sample[:, 4:], axis=(1, 2, 3)).max() == 0
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert len(set(texts[4:].tolist())) == 1
    assert texts[4] not in texts[:4]


@pytest.mark.parametrize("scales", [(1.0, 1.5), (7.5, 0.99)])
def test_one_branch_without_guidance(
    bundle: Path, scales: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = NullGraph.__call__

    def call(self: NullGraph, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if "timestep" in inputs:
            rows.append(len(inputs["sample"]))
        return original(self, inputs)

    monkeypatch.setattr(NullGraph, "__call__", call)
    asked = instruct.request(
        Bundle.open(bundle), "a", picture(), guidance_scale=scales[0], image_guidance_scale=scales[1]
    )
    assert asked.call.guidance_scale == 1.0
    with edgediff.load(bundle, runtime="null") as pipe:
        pipe.draw(asked)
    assert set(rows) == {1}


def test_the_task_is_picked(bundle: Path, fake_bundle: Path) -> None:
    opened = Bundle.open(bundle)
    asked = tasks.checked(opened, "a", image=picture(), image_guidance_scale=2.0, strength=None)
    assert isinstance(asked, instruct.Request)
    assert asked.image_guidance_scale == 2.0
    assert asked.call.size == {"height": 24, "width": 32}
    with pytest.raises(InputError, match="this model does not do instruct"):
        tasks.checked(
            Bundle.open(control_bundle.write(bundle.parent / "other")), "a", image=picture(),
            image_guidance_scale=2,
        )  # fmt: skip


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "image: an instruction says what to change in a picture"),
    ({"image": picture(30)}, "width: 30 is no multiple of 8"),
    ({"image": picture(), "width": 64}, "image: it is 32x24 and 64x24"),
    ({"image": [picture()] * 2}, "image: 2 were given for 1 prompts"),
    ({"image": picture(), "image_guidance_scale": -1}, "image_guidance_scale: -1"),
    ({"image": picture(), "image_guidance_scale": "much"}, "image_guidance_scale: 'much' is not a number"),
    ({"image": picture(), "strength": 0.5}, "strength: it is for image2image and inpaint"),
    ({"image": picture(), "mask_image": picture()}, "does not do inpaint. It does: instruct .give an image"),
    ({"image": picture(), "control_image": picture()}, "control_image: instructions take none"),
    ({"image": picture(), "mask_blur": 2.0}, "mask_blur: it is for inpaint"),
    ({"image": picture(), "mask_image": picture(), "image_guidance_scale": 2.0}, "image_guidance_scale: it"),
]


def named(value: object) -> str:
    """A case's name, without the address of a picture in it, which is another in each process."""
    return re.sub(" at 0x[0-9A-Fa-f]+", "", str(value))[:50]


@pytest.mark.parametrize(("arguments", "says"), WRONG, ids=named)
def test_refused_before_anything_is_loaded(bundle: Path, arguments: dict[str, Any], says: str) -> None:
    with edgediff.load(bundle, runtime="null") as pipe:
        with pytest.raises(InputError, match=says):
            pipe.stream("a", **arguments)
        assert not pipe.infos()


@pytest.mark.parametrize("task", ["__call__", "image2image", "inpaint"])
def test_other_tasks_are_refused(bundle: Path, task: str) -> None:
    given: dict[str, Any] = {"image2image": {"image": picture()}, "inpaint": {
        "image": picture(), "mask_image": picture()
    }}.get(task, {})  # fmt: skip
    with edgediff.load(bundle, runtime="null") as pipe:
        with pytest.raises(InputError, match="It does: instruct"):
            getattr(pipe, task)("a", **given)
        assert not pipe.infos()
