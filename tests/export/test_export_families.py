"""What the manifest says of each member of the family, and what does not fit together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from export_helpers import TINY_UNET, model_folder
from family_folders import (
    POOLED,
    XL_UNET,
    change,
    control_folder,
    tiny_autoencoder,
    unet_folder,
    xl_folder,
)

import edgediff
from edgediff.bundle import Bundle
from edgediff.errors import EdgediffError, InputError, SourceError, UnsupportedError
from edgediff.export.main import export_onnx

SCHEMA = json.loads((Path(edgediff.__file__).parent / "bundle.schema.json").read_text(encoding="utf-8"))


def exported(model: Path, **choices: Any) -> dict[str, Any]:
    """The manifest of a model's bundle, which the schema and the loader accept."""
    out = model.parent / "bundle"
    export_onnx(str(model), str(out), overwrite=True, **choices)
    found: dict[str, Any] = json.loads((out / "edgediff.json").read_text(encoding="utf-8"))
    jsonschema.validate(found, SCHEMA)
    Bundle.open(out).verify()
    return found


def test_xl(tmp_path: Path) -> None:
    found = exported(xl_folder(tmp_path / "model"))
    model = found["model"]
    assert model["family"] == "stable-diffusion-xl"
    assert model["tasks"] == ["text2image", "image2image", "inpaint"]
    # Two layers: the states before the last one are those after the first.
    assert [encoder["hidden"] for encoder in model["text"]["encoders"]] == ["hidden_states.1"] * 2
    assert [encoder["pooled"] for encoder in model["text"]["encoders"]] == [None, "text_embeds"]
    assert model["text"]["zero_negative"] is True
    assert model["size_ids"][-2:] == ["target_height", "target_width"]
    assert found["defaults"]["guidance_scale"] == 5.0
    inputs = {t["name"]: t["dims"] for t in found["components"]["denoiser"]["graphs"][0]["inputs"]}
    assert inputs["text_embeds"] == ["batch_size", POOLED]
    assert inputs["time_ids"] == ["batch_size", 6]


def test_refiner(tmp_path: Path) -> None:
    model = exported(xl_folder(tmp_path / "model", refiner=True))["model"]
    assert model["tasks"] == ["image2image", "inpaint"]
    assert [encoder["role"] for encoder in model["text"]["encoders"]] == ["text_encoder_2"]
    assert model["text"]["zero_negative"] is False
    assert model["size_ids"] == [
        "original_height", "original_width", "crop_top", "crop_left", "aesthetic_score",
    ]  # fmt: skip


def test_instruct_and_inpaint_are_told_by_the_channels(tmp_path: Path) -> None:
    for channels, tasks in ((8, ["instruct"]), (9, ["inpaint"])):
        folder = model_folder(tmp_path / str(channels), unet={**TINY_UNET, "in_channels": channels})
        assert exported(folder)["model"]["tasks"] == tasks


def test_controlnets(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    nets = [str(control_folder(tmp_path / name)) for name in ("first", "second")]
    found = exported(folder, controlnets=nets)
    assert found["model"]["controls"] == [
        {"role": "control", "channels": 3},
        {"role": "control_2", "channels": 3},
    ]
    plain = found["components"]["denoiser"]["graphs"][0]
    steered = found["components"]["controlled_denoiser"]["graphs"][0]
    assert plain["weights"] == steered["weights"]
    assert plain["file"] != steered["file"]
    index = json.loads((tmp_path / "bundle" / "model_index.json").read_text(encoding="utf-8"))
    assert "controlnet" not in index


def test_parts_are_replaced(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    tiny, unet = tiny_autoencoder(tmp_path / "taesd"), unet_folder(tmp_path / "unet")
    found = exported(folder, parts={"vae": str(tiny), "unet": str(unet)})
    assert found["model"]["latents"]["scaling_factor"] == 1.0
    encoder = found["components"]["encoder"]["graphs"][0]
    assert [tensor["name"] for tensor in encoder["outputs"]] == ["latents"]
    index = json.loads((tmp_path / "bundle" / "model_index.json").read_text(encoding="utf-8"))
    assert index["vae"] == ["diffusers", "AutoencoderTiny"]
    own = exported(folder)["files"]["unet/model.onnx_data"]["sha256"]
    assert found["files"]["unet/model.onnx_data"]["sha256"] != own


Fault = tuple[Callable[[Path], dict[str, Any]], type[EdgediffError], str]
FAULTS: dict[str, Fault] = {
    "aesthetics score": (
        lambda p: {"model": str(xl_folder(p / "m", requires_aesthetics_score=True))},
        SourceError,
        "5 sizes make 40. requires_aesthetics_score may be wrong",
    ),
    "no text encoder": (
        lambda p: {"model": str(xl_folder(p / "m", text_encoder_2=[None, None], text_encoder=[None, None]))},
        SourceError,
        "names no text_encoder",
    ),
    "one text encoder too few": (
        lambda p: {"model": str(xl_folder(p / "m", text_encoder=[None, None]))},
        SourceError,
        "unet reads text of 32 channels, the text encoders give 16",
    ),
    "no projection": (
        lambda p: {"model": str(xl_folder(p / "m", text_encoder_2=["transformers", "CLIPTextModel"]))},
        SourceError,
        "text_projection",
    ),
    "a U-Net of another family": (
        lambda p: {"model": str(model_folder(p / "m")), "parts": {"unet": str(unet_folder(p / "u", XL_UNET))}},  # noqa: E501
        SourceError,
        "no projection",
    ),
    "an autoencoder that is a U-Net": (
        lambda p: {"model": str(model_folder(p / "m")), "parts": {"vae": str(unet_folder(p / "u"))}},
        UnsupportedError,
        "UNet2DConditionModel",
    ),
    "a ControlNet of another model": (
        lambda p: {"model": str(xl_folder(p / "m")), "controlnets": [str(control_folder(p / "c"))]},
        SourceError,
        "reads text of 16 channels, the text encoders give 32",
    ),
    "an upscaler": (
        lambda p: {"model": str(model_folder(p / "m", unet={**TINY_UNET, "num_class_embeds": 10}))},
        UnsupportedError,
        "class labels",
    ),
    "no such recipe": (
        lambda p: {"model": str(model_folder(p / "m")), "recipe": "fast"},
        InputError,
        "recipe 'fast' is unknown; known are lcm",
    ),
    "no such tokenizer": (
        lambda p: {"model": str(model_folder(p / "m")), "tokenizer": str(p / "nowhere")},
        InputError,
        "no such folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_refused(name: str, tmp_path: Path) -> None:
    make, error, message = FAULTS[name]
    choices = make(tmp_path)
    model = choices.pop("model")
    with pytest.raises(error, match=message):
        export_onnx(model, str(tmp_path / "out"), **choices)
    assert not (tmp_path / "out").exists()


def test_only_the_pipelines_that_diffusers_corrects_are_corrected(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    change(folder / "model_index.json", _class_name="StableDiffusionControlNetPipeline")
    assert "steps_offset" not in exported(folder)["model"]["scheduler"]
