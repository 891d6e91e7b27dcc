"""Optimum's folders run in edgediff, and edgediff's bundles in Optimum, with the same pictures.

Pictures are those of optimum-onnx's own pipelines with a CPU generator of the same seed, within 2/255.
"""

from __future__ import annotations

import filecmp
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("optimum.onnxruntime", reason="needs Optimum's stack: python -m tests --optimum --setup")

import diffusers
import optimum.onnxruntime as ort_pipelines
import torch

import edgediff
from edgediff.export.main import export_onnx
from tests import tiny
from tests.facts import FACTS
from tests.optimum import models

TOLERANCE = 2 / 255
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DDIM = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


def _ddim() -> Any:
    return diffusers.DDIMScheduler(**BETAS, **DDIM)


MAKERS: dict[str, Callable[[Path], Any]] = {
    "sd": lambda folder: tiny.pipeline(folder, _ddim()),
    "old": lambda folder: tiny.pipeline(folder, diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True)),
    "lcm": lambda folder: tiny.pipeline(folder, diffusers.LCMScheduler(**BETAS), guidance_dims=32),
    "nine": lambda folder: tiny.pipeline(folder, _ddim(), kind="StableDiffusionInpaintPipeline9"),
    "xl": models.stable_diffusion_xl,
    "refiner": lambda folder: models.stable_diffusion_xl(folder, refiner=True),
}
TASKS = {"nine": "inpainting", "refiner": "image-to-image"}
Folders = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A model by name and by who made its graphs: ``optimum``, ``edgediff``, or ``manifest`` (added)."""
    from optimum.exporters.onnx import main_export

    root = tmp_path_factory.mktemp("models")

    def get(name: str, by: str) -> Path:
        place = root / f"{name}-{by}"
        if place.exists():
            return place
        if by == "torch":
            MAKERS[name](place)
        elif by == "optimum":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the tracer's
                task = TASKS.get(name, "text-to-image")
                main_export(
                    str(get(name, "torch")), str(place), task=task, no_post_process=True, do_validation=False
                )
        else:
            export_onnx(str(get(name, "torch" if by == "edgediff" else "optimum")), str(place))
        return place

    return get


def picture() -> Image.Image:
    """A picture with content at every scale."""
    rows, columns = np.mgrid[0:16, 0:16]
    base = np.stack([rows * 12, columns * 9, (rows + columns) % 64 * 4], axis=-1)
    rough = np.random.RandomState(0).randint(0, 60, base.shape)
    return Image.fromarray(np.clip(base + rough, 0, 255).astype(np.uint8))


def mask() -> Image.Image:
    """A block off the middle."""
    shape = np.zeros((16, 16), np.uint8)
    shape[3:13, 5:12] = 255
    return Image.fromarray(shape)


def reference(folder: Path, kind: str, **arguments: Any) -> np.ndarray[Any, Any]:
    """What Optimum's pipeline class draws with the graphs of a folder."""
    pipe = getattr(ort_pipelines, kind).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    images: np.ndarray[Any, Any] = pipe(generator=generator, output_type="np", **arguments).images
    return images


def agree(name: str, expected: np.ndarray[Any, Any], found: Any) -> None:
    assert found.shape == expected.shape
    assert expected.std() > 0.01, "a flat picture would agree with anything"
    worst = float(np.abs(expected - found).max())
    FACTS.append(f"{name}: within {worst * 255:.1e}/255 of optimum-onnx's picture")
    assert worst <= TOLERANCE


@pytest.mark.parametrize("by", ["optimum", "manifest", "edgediff"])
@pytest.mark.parametrize(
    ("name", "kind", "arguments"),
    [
        ("sd", "ORTStableDiffusionPipeline", {"negative_prompt": "blue"}),
        ("old", "ORTStableDiffusionPipeline", {}),
        ("lcm", "ORTLatentConsistencyModelPipeline", {"guidance_scale": 3.0}),
        ("xl", "ORTStableDiffusionXLPipeline", {}),
        ("xl", "ORTStableDiffusionXLPipeline", {"negative_prompt": "blue", "height": 24}),
    ],
)
def test_text_to_image(folder: Folders, name: str, kind: str, arguments: dict[str, Any], by: str) -> None:
    given = {"height": 16, "width": 16, "num_inference_steps": 4, **arguments}
    place = folder(name, by)
    expected = reference(place, kind, prompt="a red circle", **given)
    with edgediff.load(place) as pipe:
        agree(f"{name} by {by}", expected, pipe("a red circle", seed=5, output_type="np", **given).images)


@pytest.mark.parametrize("by", ["optimum", "edgediff"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sd", "ORTStableDiffusionImg2ImgPipeline"),
        ("xl", "ORTStableDiffusionXLImg2ImgPipeline"),
        ("refiner", "ORTStableDiffusionXLImg2ImgPipeline"),
    ],
)
def test_image_to_image(folder: Folders, name: str, kind: str, by: str) -> None:
    given = {"strength": 0.6, "num_inference_steps": 5}
    place = folder(name, by)
    expected = reference(place, kind, prompt="a red circle", image=picture(), **given)
    with edgediff.load(place) as pipe:
        found = pipe.image2image("a red circle", picture(), seed=5, output_type="np", **given)
        agree(f"{name}, image to image by {by}", expected, found.images)


@pytest.mark.parametrize("by", ["optimum", "edgediff"])
@pytest.mark.parametrize("name", ["sd", "nine"])
def test_inpainting(folder: Folders, name: str, by: str) -> None:
    given = {"strength": 1.0, "num_inference_steps": 4}
    place = folder(name, by)
    size = {"height": 16, "width": 16}
    kind = "ORTStableDiffusionInpaintPipeline"
    pictures = {"image": picture(), "mask_image": mask()}
    expected = reference(place, kind, prompt="a red circle", **pictures, **size, **given)
    with edgediff.load(place) as pipe:
        found = pipe.inpaint("a red circle", picture(), mask(), seed=5, output_type="np", **given)
        agree(f"{name}, inpainting by {by}", expected, found.images)


def test_nothing_is_exported_again(folder: Folders) -> None:
    before, after = folder("xl", "optimum"), folder("xl", "manifest")
    graphs = sorted(path.relative_to(before) for path in before.rglob("*.onnx"))
    assert len(graphs) == 5
    assert all(filecmp.cmp(before / graph, after / graph, shallow=False) for graph in graphs)
    assert all((before / graph).stat().st_nlink == 1 for graph in graphs)
    bundle = edgediff.Bundle.open(after)
    bundle.verify()
    assert bundle.text is not None
    assert [each.hidden for each in bundle.text.encoders] == ["hidden_states.1", "hidden_states.2"]
    (pooled,) = [t for t in bundle.graph("text_encoder_2").outputs if t.name == "text_embeds"]
    assert pooled.dims[1] == 12  # Optimum's graph calls it a length
