"""A folder that Optimum exported, opened without a manifest: facts come from its configs, tensors from its
graphs."""

from __future__ import annotations

from pathlib import Path

from edgediff.bundle import Bundle, Defaults, GraphSpec, Latents, Text, TextEncoder
from edgediff.errors import BundleError, UnsupportedError
from edgediff.manifest import Fields, read_json

_FOLDERS = {
    "text_encoder": "text_encoder",
    "unet": "denoiser",
    "vae_decoder": "decoder",
    "vae_encoder": "encoder",
}
_NEEDED = ("text_encoder", "denoiser", "decoder")
_PIPELINES = {
    "StableDiffusionPipeline", "OnnxStableDiffusionPipeline", "ORTStableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline", "ORTStableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline", "ORTStableDiffusionInpaintPipeline",
    "LatentConsistencyModelPipeline", "ORTLatentConsistencyModelPipeline",
}  # fmt: skip


def open_folder(folder: Path) -> Bundle:
    """Return the bundle that ``folder`` amounts to.

    Raises:
        UnsupportedError: its pipeline class is not one of the Stable Diffusion 1 kind.
        BundleError: a file is missing or its configuration is incomplete.
    """
    index = Fields(read_json(folder / "model_index.json"), str(folder / "model_index.json"))
    kind = index.text("_class_name")
    if kind not in _PIPELINES:
        raise UnsupportedError(
            f"{index.where}: {kind} is not opened without a manifest; edgediff opens "
            f"{', '.join(sorted(_PIPELINES))}."
        )
    components = {}
    for name, role in _FOLDERS.items():
        file = f"{name}/model.onnx"
        if (folder / file).is_file():
            components[role] = (GraphSpec("onnxruntime", "portable", file, "unknown"),)
    missing = [role for role in _NEEDED if role not in components]
    if missing:
        raise BundleError(
            f"{folder}: no graph for {', '.join(missing)}; a PyTorch folder has to be exported first."
        )
    unet, vae = _config(folder, "unet"), _config(folder, "vae_decoder")
    schedule_file = folder / "scheduler" / "scheduler_config.json"
    scheduler = Fields(read_json(schedule_file, unbounded=True), str(schedule_file)).value
    levels = vae.wholes_of("block_out_channels")
    if not levels:
        raise BundleError(f"{vae.where}.block_out_channels: it is empty; export the model again.")
    factor = 2 ** (len(levels) - 1)
    size = (unet.whole("sample_size", 1, 4096) if "sample_size" in unet else 64) * factor
    few_steps = scheduler.get("_class_name") == "LCMScheduler"
    guidance_dims = unet.whole("time_cond_proj_dim", 2) if "time_cond_proj_dim" in unet else None
    channels = vae.whole("latent_channels") if "latent_channels" in vae else 4
    told = unet.whole("in_channels") == 2 * channels + 1  # it reads a mask and a masked picture as well
    length = _config(folder, "text_encoder").whole("max_position_embeddings", 3)
    tokenizer = "tokenizer/vocab.json"
    return Bundle(
        path=folder,
        family="stable-diffusion",
        tasks=("inpaint",) if told else ("text2image", "image2image", "inpaint"),
        scheduler=scheduler,
        latents=Latents(
            channels=channels,
            axes=("batch", "channels", "height", "width"),
            downscale={"height": factor, "width": factor},
            scaling_factor=_number(vae, "scaling_factor", 0.18215),
            shift_factor=_number(vae, "shift_factor", 0.0),
        ),
        defaults=Defaults(
            sampler=None,
            num_inference_steps=4 if few_steps else 20,
            guidance_scale=8.5 if guidance_dims else 7.5,
            size={"height": size, "width": size},
        ),
        components=components,
        text=Text(length, tokenizer, (TextEncoder("text_encoder", length, tokenizer),)),
        guidance_embedding=guidance_dims,
        origin={"source": folder.name},
    )


def _config(folder: Path, component: str) -> Fields:
    file = folder / component / "config.json"
    return Fields(read_json(file), str(file))


def _number(fields: Fields, key: str, default: float) -> float:
    return fields.number(key) if key in fields else default
