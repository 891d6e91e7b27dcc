"""Checkpoints as ordinary diffusers folders in half precision, replaced whole."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, LCMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

from benchmarks.reference import nets, tokenizer

HERE = Path(__file__).parent
TEACHER, STUDENT = HERE / "checkpoint", HERE / "student"
PARTS = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

WHOLE: dict[str, Any] = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}


@dataclass(slots=True)
class Model:
    """Everything that draws a picture from a caption."""

    text: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    tokenizer: Any
    scheduler: DDIMScheduler | LCMScheduler


def save_teacher(model: Model, folder: Path = TEACHER) -> None:
    """Write a whole pipeline folder, weights in float16."""
    part = _fresh(folder)
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        **PARTS,
    }
    index |= {name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")}
    (part / "model_index.json").write_text(
        json.dumps(index | {"requires_safety_checker": False}, indent=2) + "\n"
    )
    tokenizer.save(model.tokenizer, part / "tokenizer", nets.CONTEXT)
    model.scheduler.save_pretrained(part / "scheduler")
    unet = without_guidance_input(model.unet)
    for name, net in {"text_encoder": model.text, "unet": unet, "vae": model.vae}.items():
        _half(net).save_pretrained(part / name)
        _without_path(part / name / "config.json")
    _put(part, folder)


def _without_path(config: Path) -> None:
    """Networks that were loaded remember from where; nobody else has that folder."""
    value = json.loads(config.read_text())
    if value.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def save_student(unet: UNet2DConditionModel, scheduler: LCMScheduler, folder: Path = STUDENT) -> None:
    """Write what a student has of its own: its U-Net and its scheduler."""
    part = _fresh(folder)
    _half(unet).save_pretrained(part / "unet")
    _without_path(part / "unet" / "config.json")
    scheduler.save_pretrained(part / "scheduler")
    _put(part, folder)


def load_teacher(folder: Path = TEACHER) -> Model:
    """Read a pipeline folder back, in float32."""
    from tokenizers import Tokenizer

    return Model(
        CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval(),
        UNet2DConditionModel.from_pretrained(folder / "unet", **WHOLE).eval(),
        load_autoencoder(folder),
        Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json")),
        DDIMScheduler.from_pretrained(folder / "scheduler"),
    )


def load_autoencoder(folder: Path = TEACHER) -> AutoencoderKL:
    """Read the autoencoder of a pipeline folder, in float32."""
    return AutoencoderKL.from_pretrained(folder / "vae", **WHOLE).eval()


def load_student(folder: Path = STUDENT, teacher: Path = TEACHER) -> Model:
    """Read a student; text encoder and autoencoder are its teacher's."""
    model = load_teacher(teacher)
    model.unet = UNet2DConditionModel.from_pretrained(folder / "unet", **WHOLE).eval()
    model.scheduler = LCMScheduler.from_pretrained(folder / "scheduler")
    return model


def without_guidance_input(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same network without the input that tells a student its guidance.

    A network that has this input gets no classifier-free guidance from diffusers' pipelines. The projection
    has no bias, so leaving it out is exact for a teacher, which was trained without the input.
    """
    if unet.config.time_cond_proj_dim is None:
        return unet
    plain = UNet2DConditionModel.from_config({**unet.config, "time_cond_proj_dim": None})
    weights = {name: w for name, w in unet.state_dict().items() if name != "time_embedding.cond_proj.weight"}
    plain.load_state_dict(weights)
    return plain


def with_guidance_input(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same network with the input for guidance, to which it is deaf at first."""
    if unet.config.time_cond_proj_dim is not None:
        return unet
    whole = UNet2DConditionModel.from_config({**unet.config, "time_cond_proj_dim": nets.GUIDANCE_CHANNELS})
    whole.load_state_dict(unet.state_dict(), strict=False)
    whole.time_embedding.cond_proj.weight.data.zero_()
    return whole


def _half(net: torch.nn.Module) -> Any:
    return copy.deepcopy(net).to(memory_format=torch.contiguous_format).half()


def _fresh(folder: Path) -> Path:
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def _put(part: Path, folder: Path) -> None:
    """Move a finished folder into place; the old one goes only once the new one is whole."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
