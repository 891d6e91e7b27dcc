"""The Stable Diffusion family: CLIP text encoders, a conditional U-Net, an autoencoder, perhaps ControlNets.

1.x and 2.x read one encoder's last states; the SDXL family (Podell et al. 2023) joins the penultimate states
of two encoders, and adds a pooled vector and the sizes of the picture.
"""

from __future__ import annotations

from typing import Any

from edgediff.errors import SourceError, UnsupportedError
from edgediff.export.checkpoint import plain_spellings
from edgediff.export.families import autoencoders, controls, texts
from edgediff.export.families.autoencoders import Autoencoder
from edgediff.export.families.defaults import defaults
from edgediff.export.families.parts import Form, Model, Part, parts_of
from edgediff.export.json_files import dump_json
from edgediff.export.networks import unet2d_condition
from edgediff.export.networks.unet2d_condition import UNet2DCondition
from edgediff.export.recipes import Recipe
from edgediff.export.sources import Component, Source
from edgediff.saved_scheduler import as_the_pipeline_has_it

PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline",
    "StableDiffusionXLControlNetInpaintPipeline",
)
_CARRIED = (
    "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae", "scheduler", "controlnet",
)  # fmt: skip
_SIZES = (
    "original_height", "original_width", "crop_top", "crop_left", "target_height", "target_width",
)  # fmt: skip
_AESTHETIC = (*_SIZES[:4], "aesthetic_score")


def build(source: Source, recipe: Recipe | None = None) -> Model:
    """Read every configuration and header, record every network, and check that all of it fits together."""
    unet = source.component("unet", ("UNet2DConditionModel",))
    denoiser = unet2d_condition.configure(unet.config, str(unet.where))
    encoders = tuple(n for n in ("text_encoder", "text_encoder_2") if source.class_of(n) is not None)
    if not encoders:
        raise SourceError(f"{source.where}: names no text_encoder. The model is incomplete.")
    text = texts.build(source, encoders, penultimate=denoiser.added is not None)
    vae = autoencoders.build(source)
    tiny, tiny_scale = autoencoders.tiny_decoder(source, vae)
    _check_text(source, denoiser, text)
    size_ids = _size_ids(source, denoiser, text.pooled)
    tasks = _tasks(source, denoiser, vae, size_ids)
    nets, control_facts = controls.build(source, denoiser, len(size_ids))
    scheduler = as_the_pipeline_has_it(source.scheduler(), source.pipeline)
    if recipe is not None:
        scheduler = recipe.scheduler(scheduler)
    facts: dict[str, Any] = {
        "family": "stable-diffusion" if denoiser.added is None else "stable-diffusion-xl",
        "tasks": tasks,
        "scheduler": scheduler,
        "latents": vae.facts,
        "text": text.facts(bool(source.index.get("force_zeros_for_empty_prompt", True))),
        "guidance_embedding": denoiser.guidance_channels and {"dims": denoiser.guidance_channels},
    }
    if size_ids:
        facts["size_ids"] = list(size_ids)
    if control_facts:
        facts["controls"] = control_facts
    if tiny_scale is not None:
        facts["tiny_decoder"] = tiny_scale
    dropped = [n for n in source.index if source.class_of(n) is not None and n not in _CARRIED]
    return Model(
        parts=(*text.parts, *_denoisers(unet, denoiser, len(size_ids), bool(nets)), *nets, *vae.parts, *tiny),
        facts=facts,
        defaults=defaults(source, scheduler, denoiser, unet.config, vae.downscale, recipe),
        files={
            **text.files,
            "scheduler/scheduler_config.json": dump_json(scheduler),
            "model_index.json": dump_json(_index(source)),
        },
        notes=tuple(f"{name} is not part of the bundle" for name in dropped),
    )


def _denoisers(unet: Component, net: UNet2DCondition, ids: int, controlled: bool) -> list[Part]:
    """The U-Net; a model with ControlNets has it a second time, with inputs for their residuals."""
    grid = 1 << len(net.levels)
    trial = {"sample": (grid, grid), "encoder_hidden_states": (8,)}
    overflows = bool(unet.config.get("upcast_attention"))
    forms = [Form("denoiser", "unet", unet2d_condition.record(net, ids=ids), trial, overflows=overflows)]
    if controlled:
        graph = unet2d_condition.record(net, ids=ids, controlled=True)
        forms.append(
            Form(
                "controlled_denoiser",
                "unet",
                graph,
                {**trial, **_residuals(net, grid)},
                "controlled",
                overflows,
            )
        )
    return parts_of(unet, plain_spellings, forms)


def _residuals(net: UNet2DCondition, grid: int) -> dict[str, tuple[int, int]]:
    """Extents of the residuals that a first pass feeds to the controlled U-Net."""
    found = unet2d_condition.residual_extents(net, (grid, grid))
    return {name: (height, width) for name, (height, width) in found.items()}


def _check_text(source: Source, unet: UNet2DCondition, text: texts.Texts) -> None:
    if unet.context != text.channels:
        raise SourceError(
            f"{source.where}: unet reads text of {unet.context} channels, the text encoders give "
            f"{text.channels}. They are of different models."
        )


def _size_ids(source: Source, unet: UNet2DCondition, pooled: int) -> tuple[str, ...]:
    """The numbers about the picture that an SDXL-family U-Net reads beside the pooled text."""
    if unet.added is None:
        return ()
    ids = _AESTHETIC if source.index.get("requires_aesthetics_score") else _SIZES
    wanted = pooled + len(ids) * unet.added.channels
    if unet.added.inputs != wanted:
        raise SourceError(
            f"{source.where}: unet reads {unet.added.inputs} added numbers; the pooled text has {pooled} and "
            f"{len(ids)} sizes make {len(ids) * unet.added.channels}. requires_aesthetics_score may be wrong."
        )
    return ids


def _tasks(source: Source, unet: UNet2DCondition, vae: Autoencoder, ids: tuple[str, ...]) -> list[str]:
    """What the U-Net's inputs allow."""
    latent = vae.channels
    if unet.out_channels != latent:
        raise SourceError(f"{source.where}: unet gives {unet.out_channels} channels, vae decodes {latent}.")
    if unet.class_labels is not None:
        raise UnsupportedError(
            f"{source.where}: unet reads class labels (an upscaler); covered are models drawn from text."
        )
    if unet.in_channels == latent:
        return ["image2image", "inpaint"] if ids == _AESTHETIC else ["text2image", "image2image", "inpaint"]
    if unet.in_channels == 2 * latent + 1:
        return ["inpaint"]
    if unet.in_channels == 2 * latent:
        if source.index.get("is_cosxl_edit"):
            raise UnsupportedError(
                f"{source.where}: is_cosxl_edit is true; covered are other instruct models."
            )
        return ["instruct"]
    raise UnsupportedError(
        f"{source.where}: unet reads {unet.in_channels} channels; covered are {latent} (the latents), "
        f"{2 * latent} (with a picture to edit) and {2 * latent + 1} (with a mask and a masked picture)."
    )


def _index(source: Source) -> dict[str, Any]:
    """The source's index; components that the bundle does not carry are declared absent."""
    index = dict(source.index)
    for name in source.index:
        if source.class_of(name) is not None and name not in _CARRIED:
            index[name] = [None, None]
    index.pop("_name_or_path", None)
    if "requires_safety_checker" in index:
        index["requires_safety_checker"] = False
    return index
