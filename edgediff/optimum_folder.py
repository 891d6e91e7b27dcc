"""A folder that Optimum exported, opened without a manifest: facts come from its configs, tensors from its
graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgediff.bundle import Bundle, Defaults, GraphSpec, Latents, Text, TextEncoder
from edgediff.errors import BundleError, UnsupportedError
from edgediff.manifest import Fields, read_json
from edgediff.saved_scheduler import as_the_pipeline_has_it

FOLDERS = {
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "unet": "denoiser",
    "vae_decoder": "decoder",
    "vae_encoder": "encoder",
}
_XL = "stable-diffusion-xl"
_PIPELINES = {
    "StableDiffusionPipeline": "stable-diffusion",
    "StableDiffusionImg2ImgPipeline": "stable-diffusion",
    "StableDiffusionInpaintPipeline": "stable-diffusion",
    "LatentConsistencyModelPipeline": "stable-diffusion",
    "LatentConsistencyModelImg2ImgPipeline": "stable-diffusion",
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": _XL,
}
_SIZES = (
    "original_height", "original_width", "crop_top", "crop_left", "target_height", "target_width",
)  # fmt: skip
_ANY_TASK = ("text2image", "image2image", "inpaint")

Configs = Mapping[str, Mapping[str, Any]]


def pipeline_class(index: Mapping[str, Any]) -> str:
    """Return the pipeline class that a ``model_index.json`` names, without the prefixes of ONNX pipelines."""
    return str(index.get("_class_name", "")).removeprefix("ORT").removeprefix("Onnx")


def covers(pipeline: str) -> bool:
    """Return whether folders of a pipeline class (as :func:`pipeline_class` gives it) are opened."""
    return pipeline in _PIPELINES


def open_folder(folder: Path, configs: Configs | None = None) -> Bundle:
    """Return the bundle that ``folder`` amounts to.

    ``configs`` stands in for a component's ``config.json`` where there is none: exports before Optimum wrote
    graphs alone.

    Raises:
        UnsupportedError: its pipeline class is not one of the Stable Diffusion kind.
        BundleError: a file is missing or its configuration is incomplete.
    """
    index = Fields(read_json(folder / "model_index.json"), str(folder / "model_index.json"))
    index.text("_class_name")
    pipeline = pipeline_class(index.value)
    if pipeline not in _PIPELINES:
        raise UnsupportedError(
            f"{index.where}: {pipeline} is not opened without a manifest; edgediff opens "
            f"{', '.join(sorted(_PIPELINES))}."
        )
    family = _PIPELINES[pipeline]
    components = {
        role: (GraphSpec("onnxruntime", "portable", f"{name}/model.onnx", "unknown"),)
        for name, role in FOLDERS.items()
        if (folder / name / "model.onnx").is_file()
    }
    needed = ("text_encoder_2" if family == _XL else "text_encoder", "denoiser", "decoder")
    missing = [role for role in needed if role not in components]
    if missing:
        raise BundleError(
            f"{folder}: no graph for {', '.join(missing)}; a PyTorch folder has to be exported first."
        )
    known = {} if configs is None else configs
    unet, vae = _config(folder, "unet", known), _config(folder, "vae_decoder", known)
    levels = vae.wholes_of("block_out_channels")
    if not levels:
        raise BundleError(f"{vae.where}.block_out_channels: it is empty; export the model again.")
    factor = 2 ** (len(levels) - 1)
    channels = vae.whole("latent_channels") if "latent_channels" in vae else 4
    schedule_file = folder / "scheduler" / "scheduler_config.json"
    saved = Fields(read_json(schedule_file, unbounded=True), str(schedule_file)).value
    scheduler = as_the_pipeline_has_it(saved, pipeline)
    guidance_dims = unet.whole("time_cond_proj_dim", 2) if "time_cond_proj_dim" in unet else None
    aesthetic = family == _XL and index.value.get("requires_aesthetics_score") is True
    sizes = (*_SIZES[:4], "aesthetic_score") if aesthetic else _SIZES
    return Bundle(
        path=folder,
        family=family,
        tasks=_tasks(unet, channels, aesthetic),
        scheduler=scheduler,
        latents=Latents(
            channels=channels,
            axes=("batch", "channels", "height", "width"),
            downscale={"height": factor, "width": factor},
            scaling_factor=_number(vae, "scaling_factor", 0.13025 if family == _XL else 0.18215),
            shift_factor=_number(vae, "shift_factor", 0.0),
        ),
        defaults=_defaults(family, scheduler, guidance_dims, unet, factor),
        components=components,
        text=_text(folder, components, family, index, known),
        guidance_embedding=guidance_dims,
        size_ids=sizes if family == _XL else (),
        origin={"source": folder.name},
    )


def _tasks(unet: Fields, channels: int, aesthetic: bool) -> tuple[str, ...]:
    if unet.whole("in_channels") == 2 * channels + 1:  # it reads a mask and a masked picture as well
        return ("inpaint",)
    return _ANY_TASK[1:] if aesthetic else _ANY_TASK


def _defaults(
    family: str, scheduler: Mapping[str, Any], guidance_dims: int | None, unet: Fields, factor: int
) -> Defaults:
    few_steps = scheduler.get("_class_name") == "LCMScheduler"
    usual = 5.0 if family == _XL else 7.5
    size = (unet.whole("sample_size", 1, 4096) if "sample_size" in unet else 64) * factor
    return Defaults(
        sampler=None,
        num_inference_steps=4 if few_steps else 20,
        guidance_scale=8.5 if guidance_dims else 1.0 if few_steps else usual,
        size={"height": size, "width": size},
    )


def _text(folder: Path, components: Mapping[str, Any], family: str, index: Fields, configs: Configs) -> Text:
    """SDXL joins the states before the last layer of its encoders; the last one gives the pooled vector."""
    roles = [role for role in ("text_encoder", "text_encoder_2") if role in components]
    if family != _XL:
        roles = roles[:1]
    encoders = []
    for role in roles:
        config = _config(folder, role, configs)
        tokenizer = role.replace("text_encoder", "tokenizer")
        hidden = "last_hidden_state"
        if family == _XL:
            hidden = f"hidden_states.{config.whole('num_hidden_layers', 1, 999) - 1}"
        encoders.append(
            TextEncoder(
                role=role,
                length=config.whole("max_position_embeddings", 3),
                tokenizer=f"{tokenizer}/vocab.json",
                hidden=hidden,
                pooled="text_embeds" if family == _XL and role == roles[-1] else None,
            )
        )
    zero = family == _XL and index.value.get("force_zeros_for_empty_prompt", True) is not False
    return Text(encoders[0].length, encoders[0].tokenizer, tuple(encoders), zero)


def _config(folder: Path, component: str, configs: Configs) -> Fields:
    file = folder / component / "config.json"
    if component in configs and not file.is_file():
        return Fields(configs[component], str(file))
    return Fields(read_json(file), str(file))


def _number(fields: Fields, key: str, default: float) -> float:
    return fields.number(key) if key in fields else default
