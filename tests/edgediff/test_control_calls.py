"""Control pictures through whole calls, without weights: what is loaded, what sizes, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgediff
from edgediff import cli
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, InputError, UnsupportedError
from edgediff.parts import parse_devices
from edgediff.tasks import text2image
from tests.edgediff import control_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return control_bundle.write(tmp_path_factory.mktemp("control") / "bundle")


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return control_bundle.write(tmp_path_factory.mktemp("double") / "bundle", nets=2)


def picture(width: int = 32, height: int = 24, grey: int = 128) -> Image.Image:
    return Image.new("RGB", (width, height), (grey, grey, grey))


@pytest.mark.parametrize("nets", ["bundle", "double"])
def test_only_what_is_used_is_loaded(nets: str, request: pytest.FixtureRequest) -> None:
    given = [picture(), picture()] if nets == "double" else picture()
    with edgediff.load(request.getfixturevalue(nets), runtime="null") as pipe:
        done = pipe("a", control_image=given, output_type="np", seed=0)
        assert done.images.shape == (1, 24, 32, 3)  # the control picture's size, not the default's
        steering_roles = {"control", "control_2"} if nets == "double" else {"control"}
        assert pipe.infos().keys() == {"text_encoder", "controlled_denoiser", "decoder"} | steering_roles
    with edgediff.load(request.getfixturevalue(nets), runtime="null") as pipe:
        assert pipe("a", output_type="np", seed=0).images.shape == (1, 32, 32, 3)
        assert pipe.infos().keys() == {"text_encoder", "denoiser", "decoder"}


@pytest.mark.parametrize("task", ["image2image", "inpaint"])
def test_other_tasks_take_control_pictures(bundle: Path, task: str) -> None:
    mask = Image.fromarray(np.repeat(np.uint8([[0], [255]]), 12, axis=0).repeat(32, axis=1))
    more = {"mask_image": mask} if task == "inpaint" else {}
    with edgediff.load(bundle, runtime="null") as pipe:
        done = getattr(pipe, task)("a", picture(), control_image=picture(), **more, output_type="np", seed=0)
        assert done.images.shape == (1, 24, 32, 3)
        assert {"control", "controlled_denoiser"} < pipe.infos().keys()
        assert "denoiser" not in pipe.infos()
        with pytest.raises(InputError, match="control_image: it is 40x24 and 32x24 is to be drawn"):
            getattr(pipe, task)("a", picture(), control_image=picture(40), **more)
        steps = list(pipe.stream("a", image=picture(), control_image=picture(), **more))
        assert len(steps) > 1


def test_sizes_of_control_pictures(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    call = text2image.request(opened, "a", control_image=picture(30, 21), fit="crop")
    assert call.size == {"height": 24, "width": 32}
    call = text2image.request(opened, "a", control_image=picture(), height=48, width=64, fit="resize")
    assert call.controls is not None
    (control,) = call.controls.networks
    assert control.pictures.shape == (1, 3, 48, 64)
    assert control.pictures == pytest.approx(128 / 255)
    assert control.pictures.dtype == np.float32


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"controlnet_conditioning_scale": 0.5}, "controlnet_conditioning_scale: there is no control_image"),
    ({"guess_mode": True}, "guess_mode: there is no control_image"),
    ({"fit": "crop"}, "there is no picture"),
    ({"control_image": picture(30)}, "width: 30 is no multiple of 8"),
    ({"control_image": picture(), "width": 64}, "control_image: it is 32x24 and 64x24"),
    ({"control_image": "no-such.png"}, "control_image: .*no-such.png"),
    ({"control_image": []}, "control_image: found 0 pictures"),
    ({"control_image": [picture()] * 2}, "control_image: 2 were given for 1 prompts"),
    ({"control_image": Image.new("RGBA", (32, 24))}, "control_image: "),
    ({"control_image": picture(), "guess_mode": 1}, "guess_mode: 1 is neither True nor False"),
    ({"control_image": picture(), "controlnet_conditioning_scale": -1}, "controlnet_conditioning_scale: -1"),
    ({"control_image": picture(), "controlnet_conditioning_scale": "a"}, "'a' is not a number"),
    ({"control_image": picture(), "controlnet_conditioning_scale": [1, 1]}, "2 numbers for 1 ControlNets"),
    ({"control_image": picture(), "control_guidance_start": 1.0}, "1 is not below the end, 1"),
    ({"control_image": picture(), "control_guidance_end": 0}, "0 is not below the end, 0"),
    ({"control_image": picture(), "control_guidance_end": 1.1}, "control_guidance_end: 1.1"),
    ({"control_image": picture(), "control_guidance_start": float("nan")}, "control_guidance_start: nan"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), WRONG, ids=lambda v: str(v)[:50])
def test_refused_before_anything_is_loaded(bundle: Path, arguments: dict[str, Any], says: str) -> None:
    with edgediff.load(bundle, runtime="null") as pipe:
        with pytest.raises(InputError, match=says):
            pipe("a", **arguments)
        assert not pipe.infos()


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (picture(), "there are 2 ControlNets; give a list"),
        ([picture()], "1 pictures were given for 2 ControlNets"),
        ([picture(), [picture()]], "some entries are lists"),
        ([[picture(), picture()], [picture()]], "1 pictures were given for 2"),
        ([[picture(), picture()]] * 2, "2 were given for 1 prompts"),
        ([picture(), picture(64)], "control_image for control_2: it is 64x24"),
        ([], "there are 2 ControlNets; give a list"),
    ],
)
def test_pictures_for_several_networks(double: Path, image: Any, says: str) -> None:
    with edgediff.load(double, runtime="null") as pipe, pytest.raises(InputError, match=says):
        pipe("a", control_image=image)


def test_a_list_for_each_prompt(double: Path) -> None:
    given = [[picture(grey=10), picture(grey=20)], [picture(grey=30), picture(grey=40)]]
    call = text2image.request(Bundle.open(double), ["a", "b"], control_image=given)
    assert call.controls is not None
    seen = [np.rint(n.pictures[:, 0, 0, 0] * 255).tolist() for n in call.controls.networks]
    assert seen == [[10, 30], [20, 40]]
    assert call.controls.roles == ("controlled_denoiser", "control", "control_2")


def test_a_model_without_a_network(fake_bundle: Path) -> None:
    pipe = edgediff.load(fake_bundle, runtime="null")
    with pytest.raises(InputError, match="has no ControlNet; export a pipeline that has one"):
        pipe("a", control_image=picture())


def channels(manifest: dict[str, Any]) -> None:
    manifest["model"]["controls"][0]["channels"] = 4
    manifest["components"]["control"]["graphs"][0]["inputs"][3]["dims"][1] = 4


def test_a_network_that_reads_no_colours(tmp_path: Path) -> None:
    pipe = edgediff.load(control_bundle.write(tmp_path / "b", change=channels), runtime="null")
    with pytest.raises(UnsupportedError, match="control: it reads 4 channels"):
        pipe("a", control_image=picture())


def _without(manifest: dict[str, Any]) -> None:
    del manifest["components"]["controlled_denoiser"]


def _fewer(manifest: dict[str, Any]) -> None:
    del manifest["components"]["control"]["graphs"][0]["outputs"][1]


def _other(manifest: dict[str, Any]) -> None:
    manifest["components"]["control"]["graphs"][0]["outputs"][1]["dims"][1] = 7


def _wider(manifest: dict[str, Any]) -> None:
    manifest["components"]["control"]["graphs"][0]["inputs"][3]["dims"][1] = 4


def _latents(manifest: dict[str, Any]) -> None:
    manifest["components"]["control"]["graphs"][0]["inputs"][0]["dims"][1] = 9


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without, "components without a controlled_denoiser"),
        (_fewer, "control has 2 outputs, which contradicts the controlled_denoiser's 3 residuals"),
        (_other, "has 7, which contradicts the denoiser's down_block_additional_residuals.1 of 6"),
        (_wider, "controlnet_cond has 4, which contradicts model.controls.channels of 3"),
        (_latents, "control's sample has 9, which contradicts model.latents.channels of 4"),
    ],
)
def test_facts_that_contradict_each_other(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    with pytest.raises(BundleError, match=says):
        Bundle.open(control_bundle.write(tmp_path / "b", change=change))


def test_devices_by_part() -> None:
    chosen = parse_devices("control=cuda,control_2=cpu,controlled_denoiser=cuda,text_encoder_2=cpu")
    assert chosen == {
        "": "auto", "control": "cuda", "control_2": "cpu", "controlled_denoiser": "cuda",
        "text_encoder_2": "cpu",
    }  # fmt: skip
    for wrong in ("control_1=cpu", "control_x=cpu", "controls=cpu"):
        with pytest.raises(InputError, match="ROLE=DEVICE"):
            parse_devices(wrong)


def test_the_command_line(
    double: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", None)
    picture().save("a.png")
    line = ["run", "a", "-m", str(double), "--runtime", "null", "--json"]
    steer = ["--control", "a.png", "--control", "a.png", "--control-scale", "0.5", "--control-end", "0.3"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*line, *steer, "--control-end", "0.8", "--guess-mode"])
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)["parameters"]
    assert found["controlnet_conditioning_scale"] == [0.5, 0.5]
    assert found["control_guidance_start"] == [0.0, 0.0]
    assert found["control_guidance_end"] == [0.3, 0.8]
    assert (found["guess_mode"], found["width"]) == (True, 32)
    for options, says in (
        (["--control-scale", "1"], "--control-scale: give --control too"),
        (["--guess-mode", "--control-end", "1"], "--control-end, --guess-mode: give --control too"),
        (["--fit", "crop"], "--fit: give --image too"),
        (["--control", "a.png"], "there are 2 ControlNets"),
        (["--image", "a.png", "--image-guidance-scale", "2"], "does not do instruct"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([*line[:-1], *options])
        assert ended.value.code == 2
        assert says in capsys.readouterr().err
