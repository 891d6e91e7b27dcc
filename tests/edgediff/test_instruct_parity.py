"""Instructions (InstructPix2Pix) against diffusers' pipelines: same weights, same seed; within 0.02/255."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgediff
from edgediff import cli
from tests.edgediff import steered

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("onnx")
pytestmark = pytest.mark.parity

BOUND = 0.02  # 1/255
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
}


@pytest.fixture(scope="module", params=SCHEDULERS)
def pipes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The diffusers pipeline and ours, of one checkpoint."""
    from edgediff.export.main import export_onnx

    folder = tmp_path_factory.mktemp("instruct")
    reference = steered.instruct(folder / "torch", steered.scheduler(*SCHEDULERS[request.param]))
    export_onnx(str(folder / "torch"), str(folder / "bundle"), verify=False)
    return reference, edgediff.load(folder / "bundle", threads=1)


@pytest.mark.parametrize(
    ("scales", "negative"),
    [((7.5, 1.5), ""), ((3.0, 1.0), "dog"), ((3.0, 4.0), "dog"), ((1.0, 1.5), ""), ((7.5, 0.9), "")],
)
@pytest.mark.parametrize("seed", [3, [4, 5]])
def test_instruct(pipes: Any, scales: tuple[float, float], negative: str, seed: Any) -> None:
    reference, pipe = pipes
    prompts = ["make it red", "a blue cat"] if isinstance(seed, list) else ["make it red"]
    images = [steered.picture(i) for i in range(len(prompts))]
    options: dict[str, Any] = {
        "num_inference_steps": 6, "guidance_scale": scales[0], "image_guidance_scale": scales[1],
        "output_type": "np",
    }  # fmt: skip
    told = {"negative_prompt": [negative] * len(prompts)} if negative else {}
    expected = reference(prompts, images, generator=steered.generators(seed), **told, **options).images
    got = pipe.instruct(prompts, images, seed=seed, negative_prompt=negative or None, **options).images
    assert steered.difference(expected, got) <= BOUND
    if scales == (7.5, 0.9):
        unguided = pipe.instruct(prompts, images, seed=seed, **{**options, "guidance_scale": 1.0}).images
        assert np.array_equal(got, unguided)


def test_one_picture_for_many_results(pipes: Any) -> None:
    reference, pipe = pipes
    options: dict[str, Any] = {"num_inference_steps": 4, "num_images_per_prompt": 2, "output_type": "np"}
    prompts = ["red", "blue"]
    expected = reference(prompts, steered.picture(), generator=steered.generators(1), **options).images
    got = pipe.instruct(prompts, steered.picture(), seed=1, guidance_scale=7.5, **options).images
    assert steered.difference(expected, got) <= BOUND


def test_pictures_stay_with_their_prompts(pipes: Any) -> None:
    """diffusers tiles the pictures here and so gives results of one prompt the other's; ours do not."""
    _, pipe = pipes
    options: dict[str, Any] = {"num_inference_steps": 3, "output_type": "np", "sampler": "ddim"}
    images = [steered.picture(0), steered.picture(1)]
    together = pipe.instruct(["red", "blue"], images, num_images_per_prompt=2, seed=[1, 2, 3, 4], **options)
    for i, prompt in enumerate(["red", "blue"]):
        seeds = [1 + 2 * i, 2 + 2 * i]
        alone = pipe.instruct(prompt, images[i], num_images_per_prompt=2, seed=seeds, **options)
        assert np.abs(alone.images - together.images[2 * i : 2 * i + 2]).max() < 1e-4


def test_a_stream_and_other_samplers(pipes: Any) -> None:
    _, pipe = pipes
    options: dict[str, Any] = {"num_inference_steps": 4, "sampler": "lcm", "seed": 2}
    steps = list(pipe.stream("make it red", image=steered.picture(), **options))
    whole = pipe.instruct("make it red", steered.picture(), output_type="latent", **options).images
    assert len(steps) == 4
    assert np.array_equal(steps[-1].x, whole)


def test_the_command_line_picks_the_task(
    pipes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, pipe = pipes
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", None)
    steered.picture().save("in.png")
    with pytest.raises(SystemExit) as ended:
        cli.main([
            "run", "make it blue", "-m", str(pipe.bundle.path), "--image", "in.png", "-s", "3", "--steps",
            "4", "--image-guidance-scale", "2", "--json", "-t", "1",
        ])  # fmt: skip
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)["parameters"]
    assert (found["task"], found["image_guidance_scale"], found["width"]) == ("instruct", 2.0, 24)
    expected = reference(
        "make it blue", steered.picture(), num_inference_steps=4, image_guidance_scale=2.0,
        guidance_scale=7.5, generator=steered.generators(3),
    ).images[0]  # fmt: skip
    drawn = np.asarray(Image.open("out.png"), np.float32)
    assert np.abs(drawn - np.asarray(expected, np.float32)).max() <= 1  # both are rounded
