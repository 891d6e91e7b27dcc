"""Stable Diffusion 1 and its relatives: a CLIP text encoder, a conditional U-Net, an autoencoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgediff import sampler as samplers
from edgediff.errors import SourceError, UnsupportedError
from edgediff.export.checkpoint import (
    Spellings,
    autoencoder_spellings,
    clip_spellings,
    match,
    plain_spellings,
)
from edgediff.export.emit.graph import Graph
from edgediff.export.emit.sizes import Extents
from edgediff.export.families.defaults import defaults
from edgediff.export.families.parts import Model, Part
from edgediff.export.json_files import dump_json
from edgediff.export.networks import autoencoder_kl, clip_text, unet2d_condition
from edgediff.export.networks.autoencoder_kl import AutoencoderKL
from edgediff.export.networks.clip_text import ClipText
from edgediff.export.networks.unet2d_condition import UNet2DCondition
from edgediff.export.sources import Component, Source
from edgediff.export.tokenizer import largest_id, text_length, tokenizer_files

PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
)
_CARRIED = ("text_encoder", "tokenizer", "unet", "vae", "scheduler")
_WITH_PROJECTION = "CLIPTextModelWithProjection"


def build(source: Source) -> Model:
    """Read every configuration and header, record every network, and check that all of it fits together."""
    text = source.component("text_encoder", ("CLIPTextModel", _WITH_PROJECTION))
    unet = source.component("unet", ("UNet2DConditionModel",))
    vae = source.component("vae", ("AutoencoderKL",))
    scheduler = as_the_pipeline_has_it(source.scheduler(), source.pipeline)
    encoder = clip_text.configure(text.config, _where(text), text.class_name == _WITH_PROJECTION)
    denoiser = unet2d_condition.configure(unet.config, _where(unet))
    autoencoder = autoencoder_kl.configure(vae.config, _where(vae))
    task = _check(source, encoder, denoiser, autoencoder)
    tokenizer = source.tokenizer()
    files = {f"tokenizer/{name}": data for name, data in tokenizer_files(tokenizer).items()}
    files["scheduler/scheduler_config.json"] = dump_json(scheduler)
    files["model_index.json"] = dump_json(_index(source))
    length = text_length(tokenizer, encoder.length)
    if (largest := largest_id(files["tokenizer/tokenizer.json"])) >= encoder.entries:
        raise SourceError(
            f"{tokenizer}: it gives ids up to {largest}, text_encoder knows {encoder.entries}. They are of "
            "different models."
        )
    facts = {
        "family": "stable-diffusion",
        "tasks": ["text2image", "image2image", "inpaint"] if task == "text2image" else [task],
        "scheduler": scheduler,
        "latents": {
            "channels": autoencoder.latent_channels,
            "axes": ["batch", "channels", "height", "width"],
            "downscale": {"height": autoencoder.downscale, "width": autoencoder.downscale},
            "scaling_factor": autoencoder.scaling_factor,
            "shift_factor": autoencoder.shift_factor,
        },
        "text": {"length": length, "tokenizer": "tokenizer/tokenizer.json"},
        "guidance_embedding": denoiser.guidance_channels and {"dims": denoiser.guidance_channels},
    }
    dropped = [n for n in source.index if source.class_of(n) is not None and n not in _CARRIED]
    return Model(
        parts=_parts(text, unet, vae, encoder, denoiser, autoencoder),
        facts=facts,
        defaults=defaults(source, scheduler, denoiser.guidance_channels, unet.config, autoencoder.downscale),
        files=files,
        notes=tuple(f"{name} is not part of the bundle" for name in dropped),
    )


def as_the_pipeline_has_it(scheduler: Mapping[str, Any], pipeline: str | None) -> dict[str, Any]:
    """The scheduler's configuration as diffusers' Stable Diffusion pipelines change it when they load it.

    Early checkpoints were published with ``steps_offset`` 0 and ``clip_sample`` true, which the model was not
    trained with; every such pipeline sets them right, so the pictures people know come from the set values.
    """
    if pipeline is None or not pipeline.startswith("StableDiffusion"):
        return dict(scheduler)
    wanted: dict[str, Any] = {"steps_offset": 1, "clip_sample": False}
    if pipeline == "StableDiffusionInpaintPipeline":
        wanted["skip_prk_steps"] = True
    defaults = samplers.defaults_of(str(scheduler.get("_class_name", "")))
    effective = {**defaults, **scheduler}
    return {
        **scheduler,
        **{key: value for key, value in wanted.items() if effective.get(key, value) != value},
    }


def _parts(
    text: Component,
    unet: Component,
    vae: Component,
    encoder: ClipText,
    denoiser: UNet2DCondition,
    autoencoder: AutoencoderKL,
) -> tuple[Part, ...]:
    grid = 1 << len(denoiser.levels)
    pixels = 4 * autoencoder.downscale
    words: Extents = (min(8, encoder.length),)
    return (
        *_of(text, clip_spellings, [("text_encoder", clip_text.record(encoder), {"input_ids": words})]),
        *_of(
            unet,
            plain_spellings,
            [
                (
                    "denoiser",
                    unet2d_condition.record(denoiser),
                    {"sample": (grid, grid), "encoder_hidden_states": words},
                )
            ],
        ),
        *_of(
            vae,
            autoencoder_spellings,
            [
                ("decoder", autoencoder_kl.record_decoder(autoencoder), {"latent_sample": (4, 4)}),
                ("encoder", autoencoder_kl.record_encoder(autoencoder), {"sample": (pixels, pixels)}),
            ],
        ),
    )


def _of(
    component: Component, spellings: Spellings, graphs: Iterable[tuple[str, Graph, dict[str, Extents]]]
) -> list[Part]:
    """The graphs that share one component's checkpoint, which must hold exactly their parameters."""
    graphs = list(graphs)
    parameters = [parameter for _, graph, _ in graphs for parameter in graph.parameters]
    names = match(parameters, component.tensors, spellings, component.where)
    config = dump_json({key: value for key, value in component.config.items() if key != "_name_or_path"})
    return [Part(role, g.name, g, component.tensors, names, config, trial) for role, g, trial in graphs]


def _check(source: Source, text: ClipText, unet: UNet2DCondition, vae: AutoencoderKL) -> str:
    """The parts must fit together; the task that the U-Net's inputs allow."""
    if unet.levels[0].context != text.channels:
        raise SourceError(
            f"{source.where}: unet reads text of {unet.levels[0].context} channels, "
            f"text_encoder gives {text.channels}. They are of different models."
        )
    latent = vae.latent_channels
    if unet.out_channels != latent:
        raise SourceError(f"{source.where}: unet gives {unet.out_channels} channels, vae decodes {latent}.")
    if unet.in_channels == latent:
        return "text2image"
    if unet.in_channels == 2 * latent + 1:
        return "inpaint"
    raise UnsupportedError(
        f"{source.where}: unet reads {unet.in_channels} channels; covered are {latent} (the latents) "
        f"and {2 * latent + 1} (with a mask and a masked picture)."
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


def _where(component: Component) -> str:
    return str(component.where / "config.json")
