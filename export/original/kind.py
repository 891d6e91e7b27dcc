"""Which model a single file holds, told by its tensors: never by its name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgediff.errors import InputError, SourceError, UnsupportedError

Family = Literal["Stable Diffusion 1", "Stable Diffusion 2", "SDXL", "SDXL refiner"]
Task = Literal["text", "inpaint", "instruct"]
PREDICTIONS = ("epsilon", "v_prediction", "sample")

_PLAIN: dict[Task, str] = {
    "text": "StableDiffusionPipeline",
    "inpaint": "StableDiffusionInpaintPipeline",
    "instruct": "StableDiffusionInstructPix2PixPipeline",
}
_XL: dict[Task, str] = {
    "text": "StableDiffusionXLPipeline",
    "inpaint": "StableDiffusionXLInpaintPipeline",
    "instruct": "StableDiffusionXLInstructPix2PixPipeline",
}
# Tensors that only models of other kinds have, and what to say of such a file.
_OTHERS = (
    (r"(^|\.)double_blocks\.\d", "a FLUX-type transformer"),
    (r"(^|\.)joint_blocks\.\d", "Stable Diffusion 3"),
    (r"(^|\.)(time_stack|time_mixer|motion_modules|temporal_transformer)\.", "a video model"),
    (r"^(noise_augmentor|embedder\.model)\.", "Stable unCLIP"),
    (r"^edm_mean$", "Playground 2.5 (EDM)"),
    (r"^edm_vpred\.", "CosXL (EDM)"),
    (r"(^|\.)label_emb\.weight$|^low_res_model\.", "the x4 upscaler"),
    (r"^(depth_model\.|midas)", "the model conditioned on depth"),
    (r"(^|\.)(clip_txt_mapper|channelwise)\.", "Stable Cascade"),
    (r"\.(lora_up|lora_down|lora_A|lora_B|lora\.up|lora\.down)\.", "a LoRA adapter: --lora takes it"),
    (r"^control_model\.|(^|\.)(zero_convs|controlnet_down_blocks)\.", "a ControlNet: --controlnet takes it"),
    (r"^(emb_params|string_to_param)|^clip_[lg]$", "a textual inversion"),
)  # fmt: skip
_BETAS = {
    "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "trained_betas": None,
}  # fmt: skip
# Steps of published files of version 2, as diffusers' converter knows them.
_STEPS = {875000: "epsilon", 110000: "v_prediction"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A family and what its U-Net predicts; ``told`` says by what the prediction was found."""

    family: Family
    task: Task
    prediction: str
    zero_snr: bool
    guidance_embedded: bool
    told: str

    @property
    def xl(self) -> bool:
        """Whether it is of the SDXL family."""
        return self.family in ("SDXL", "SDXL refiner")

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders that such a model has."""
        if self.family == "SDXL refiner":
            return ("text_encoder_2",)
        return ("text_encoder", "text_encoder_2") if self.xl else ("text_encoder",)

    @property
    def sample_size(self) -> int:
        """The side of the latents that the model was trained with."""
        if self.xl:
            return 128
        return 96 if self.family == "Stable Diffusion 2" and self.prediction == "v_prediction" else 64


def refuse_others(where: Path, names: Iterable[str]) -> None:
    """Raise UnsupportedError that names the model if the tensors are those of another one."""
    patterns = [(re.compile(pattern), what) for pattern, what in _OTHERS]
    for name in names:
        for pattern, what in patterns:
            if pattern.search(name):
                raise UnsupportedError(
                    f"{where}: is {what}, by its tensor {name[:80]}; covered as single files are "
                    "Stable Diffusion 1 and 2, SDXL, its refiner, and their inpainting and instructed forms."
                )


def kind_of(
    where: Path,
    unet: Mapping[str, Any],
    bigg_first: bool,
    names: Collection[str],
    metadata: Mapping[str, str],
    step: int | None,
    asked: str | None,
) -> Kind:
    """The kind of model that a U-Net's configuration and the file's other tensors speak for.

    ``bigg_first``: the first encoder is OpenCLIP's and the file is laid out by SGM, as the refiner's are.
    ``step`` is the training step if the file has it; ``asked`` the prediction that the user named.
    """
    added, context = unet.get("projection_class_embeddings_input_dim"), unet["cross_attention_dim"]
    family: Family
    if added is not None and context == 1024:
        raise UnsupportedError(
            f"{where}: is Stable unCLIP, by its label_emb; it draws from embedded pictures."
        )
    if added is not None:
        family = "SDXL refiner" if bigg_first or (added, context) == (2560, 1280) else "SDXL"
    else:
        family = "Stable Diffusion 2" if unet["use_linear_projection"] else "Stable Diffusion 1"
    task = _task(where, family, unet["in_channels"])
    prediction, told = _prediction(where, family, task, names, metadata, step, asked)
    zero_snr = "ztsnr" in names and prediction == "v_prediction"
    return Kind(family, task, prediction, zero_snr, unet.get("time_cond_proj_dim") is not None, told)


def pipeline(kind: Kind) -> str:
    """The pipeline's class, as ``model_index.json`` would name it."""
    if kind.family == "SDXL refiner":
        return "StableDiffusionXLImg2ImgPipeline"
    if kind.guidance_embedded and kind.family == "Stable Diffusion 1" and kind.task == "text":
        return "LatentConsistencyModelPipeline"
    return (_XL if kind.xl else _PLAIN)[kind.task]


def scheduler_config(kind: Kind) -> dict[str, Any]:
    """The scheduler's configuration that models of this kind were published with."""
    common = {**_BETAS, "prediction_type": kind.prediction, "steps_offset": 1, "clip_sample": False}
    spacing = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}  # Lin et al. 2024, section 3
    if kind.guidance_embedded:
        found = {"_class_name": "LCMScheduler", **common, "original_inference_steps": 50}
        return found | (spacing if kind.zero_snr else {})
    if kind.xl:
        found = {"_class_name": "EulerDiscreteScheduler", **common, "timestep_spacing": "leading"}
        found |= {"interpolation_type": "linear", "use_karras_sigmas": False}
    elif kind.task == "instruct":
        found = {"_class_name": "EulerAncestralDiscreteScheduler", **common}
    elif kind.prediction == "epsilon":
        found = {"_class_name": "PNDMScheduler", **common, "set_alpha_to_one": False, "skip_prk_steps": True}
    else:
        found = {"_class_name": "DDIMScheduler", **common, "set_alpha_to_one": False}
    return found | (spacing if kind.zero_snr else {})


def _task(where: Path, family: Family, channels: int) -> Task:
    if channels == 4:
        return "text"
    if channels == 9 and family != "SDXL refiner":
        return "inpaint"
    if channels == 8 and family in ("Stable Diffusion 1", "SDXL"):
        return "instruct"
    meant = {5: "that of a model conditioned on depth", 7: "that of the x4 upscaler"}
    raise UnsupportedError(
        f"{where}: is {family}, but its U-Net reads {channels} channels"
        f"{', ' + meant[channels] if channels in meant else ''}; covered are 4 (text), 9 (inpainting) and, "
        "for Stable Diffusion 1 and SDXL, 8 (instructed editing)."
    )


def _prediction(
    where: Path,
    family: Family,
    task: Task,
    names: Collection[str],
    metadata: Mapping[str, str],
    step: int | None,
    asked: str | None,
) -> tuple[str, str]:
    if asked is not None:
        if asked not in PREDICTIONS:
            raise InputError(f"prediction type {asked!r}: known are {', '.join(PREDICTIONS)}.")
        return asked, "as asked"
    if "v_pred" in names:
        return "v_prediction", "by its tensor v_pred"
    said = metadata.get("modelspec.prediction_type", "").strip().lower()
    if said:
        if said not in ("epsilon", "eps", "v", "v_prediction", "v-prediction"):
            raise SourceError(
                f"{where}: modelspec.prediction_type is {said[:40]!r}, expected epsilon or v. "
                "Say --prediction-type."
            )
        return "v_prediction" if said.startswith("v") else "epsilon", "by its metadata"
    if family != "Stable Diffusion 2":
        return "epsilon", "as its kind does"
    architecture = metadata.get("modelspec.architecture", "").lower()
    if "v2-768-v" in architecture or "v2-512" in architecture:
        return "v_prediction" if "768-v" in architecture else "epsilon", "by its metadata"
    if step in _STEPS:
        return _STEPS[step], f"by its global_step {step}"
    if task == "inpaint":
        return "epsilon", "as the published inpainting model of version 2 does"
    raise InputError(
        f"{where}: is Stable Diffusion 2, whose base models predict the noise and whose 768-pixel models "
        "predict v; the file does not say which it is, and its tensors cannot. "
        "Say --prediction-type epsilon or --prediction-type v_prediction."
    )
