"""Pictures of small models as Core ML packages beside those of their ONNX bundles, within half precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff import checks
from edgediff.bundle import Bundle
from edgediff.errors import InputError
from tests.edgediff import steered
from tests.runtimes.mac import Mac

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("coremltools")
pytest.importorskip("onnx")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

DDIM = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
BOUND = 2 / 255
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks": {"chunk": True, "attention": "original"},
    "sizes": {"sizes": ((16, 16), (24, 16), (16, 32)), "attention": "original"},
    "control": {},
}
Get = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Get:
    """Export a tiny model once per kind; returns the ONNX bundle and that of packages."""
    from edgediff.export.coreml.main import export_coreml
    from edgediff.export.main import export_onnx
    from tests import tiny

    made: dict[str, tuple[Path, Path]] = {}

    def get(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            scheduler = steered.scheduler("DDIMScheduler", DDIM)
            if kind == "control":
                steered.control(folder / "torch", scheduler)
            else:
                tiny.pipeline(folder / "torch", scheduler)
            export_onnx(str(folder / "torch"), str(folder / "onnx"), verify=False)
            export_coreml(str(folder / "torch"), str(folder / "coreml"), receipt=False, **FORMS[kind])
            made[kind] = (folder / "onnx", folder / "coreml")
        return made[kind]

    return get


def difference(pipes: tuple[Path, Path], runtime: str, *prompt: str, **options: Any) -> float:
    """The largest difference between the pictures of two bundles, the second one run by ``runtime``."""
    every = {"seed": 3, "num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np", **options}
    task = "image2image" if "image" in options else "__call__"
    with edgediff.load(pipes[0], threads=1) as one, edgediff.load(pipes[1], runtime=runtime) as other:
        wanted, found = (
            getattr(pipe, task)(list(prompt) or "a red circle", **every).images for pipe in (one, other)
        )
    assert np.ptp(wanted) > 0.05, "a flat picture says little"
    return float(np.abs(wanted - found).max())


@pytest.mark.parametrize(
    "options",
    [{}, {"guidance_scale": 1.0}, {"num_images_per_prompt": 3}, {"clip_skip": 1},
     {"image": steered.picture(1), "fit": "crop", "strength": 0.7}],
    ids=["guided", "plain", "three", "clip-skip", "picture"],
)  # fmt: skip
def test_text2image(exported: Get, options: dict[str, Any]) -> None:
    size = {"height": 16, "width": 16} if "image" in options else {}
    assert difference(exported("plain"), "mil", **options, **size) <= BOUND


def test_pieces(exported: Get) -> None:
    assert Bundle.open(exported("chunks")[1]).graph("denoiser").stages
    assert difference(exported("chunks"), "mil") <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 16), (24, 16), (16, 32)])
def test_sizes(exported: Get, size: tuple[int, int]) -> None:
    assert difference(exported("sizes"), "mil", height=size[0], width=size[1]) <= BOUND
    with edgediff.load(exported("sizes")[1], runtime="mil") as pipe:
        with pytest.raises(InputError, match="16x16 or 16x24 or 32x16 alone"):
            pipe("a", height=24, width=32)
        assert pipe("a", num_inference_steps=1, seed=0).images[0].size == (16, 16)  # the default


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"guess_mode": True}, {"guidance_scale": 1.0}], ids=str)
def test_control(exported: Get, options: dict[str, Any]) -> None:
    shown = {"control_image": steered.picture(2), "fit": "crop", "height": 16, "width": 16}
    assert difference(exported("control"), "mil", **shown, **options) <= BOUND


@pytest.mark.parametrize(
    "kind", ["plain", "chunks", *(pytest.param(k, marks=pytest.mark.slow) for k in ("sizes", "control"))]
)
def test_verify(exported: Get, kind: str) -> None:
    found = checks.check(Bundle.open(exported(kind)[1]), runtime="mil")
    assert all(share is not None and share <= 1e-5 for share in found["graphs"].values())


@pytest.mark.parametrize("kind", ["plain", "chunks"])
def test_core_ml_itself(exported: Get, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pipes = exported(kind)
    mac = Mac(monkeypatch, tmp_path)
    assert difference(pipes, "auto") <= BOUND
    assert "load CPU_AND_NE" in mac.calls() or kind == "chunks"
    found = checks.check(Bundle.open(pipes[1]))
    assert set(found["graphs"]) == set(Bundle.open(pipes[1]).components)
