"""What Apple's Swift package ``StableDiffusion`` feeds to networks and reads from them.

Facts are of https://github.com/apple/ml-stable-diffusion (release 1.1.1, ``swift/StableDiffusion``): names,
shapes and types of inputs and outputs, the schedulers it has, the noise schedule that they assume.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from edgediff.denoise import guidance_embedding
from edgediff.errors import UnsupportedError
from edgediff.export.coreml.content import XL
from edgediff.export.coreml.options import Wanted
from edgediff.export.emit.graph import Graph
from edgediff.export.emit.mil_form import Signature
from edgediff.export.emit.sizes import Extents
from edgediff.export.families.parts import Model, Part

TOKENIZER_FILES = ("vocab.json", "merges.txt")
_START, _END = "<|startoftext|>", "<|endoftext|>"
_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# diffusers' schedulers, where a configuration does not say.
_UNSAID = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
_SCALE = 0.18215
_SCHEDULERS = {
    "PNDMScheduler": ".pndmScheduler",
    "DPMSolverMultistepScheduler": ".dpmSolverMultistepScheduler",
}


def signature(
    model: Model, part: Part, extents: tuple[Mapping[str, Extents], ...], batch: int, asked: Wanted
) -> Signature:
    """The public side of a part."""
    graph = part.graph
    if part.role.startswith("text_encoder"):
        return Signature(extents, batch, *_text(model, part), float_ids=True)
    if part.role in ("decoder", "encoder"):
        public = "image" if part.role == "decoder" else "latent"
        names = {graph.inputs[0].name: "z" if part.role == "decoder" else "x", graph.outputs[0].name: public}
        return Signature(extents, batch, names)
    if part.role in ("denoiser", "controlled_denoiser"):
        steered = (port.name for port in graph.inputs if "additional_residual" in port.name)
        names = {"out_sample": "noise_pred", **_numbered(steered)}
    else:
        names = _numbered(port.name for port in graph.outputs)
    made = Signature(
        extents, batch, names, channels_first=frozenset(("encoder_hidden_states",)), time_rows=True
    )
    return Signature(
        extents, batch, names, channels_first=made.channels_first, time_rows=True,
        baked=dict(_baked(model, graph, made, asked)),
    )  # fmt: skip


def _text(model: Model, part: Part) -> tuple[dict[str, str], tuple[str, ...]]:
    """Public names, and the outputs: the states, then the pooled vector, which the SDXL pipeline reads of
    both encoders (and uses of the last)."""
    outputs = [port.name for port in part.graph.outputs]
    pooled = "text_embeds" if "text_embeds" in outputs else "pooler_output"
    encoders = {each["role"]: each for each in model.facts["text"].get("encoders", ())}
    hidden = encoders[part.role]["hidden"] if part.role in encoders else "last_hidden_state"
    public = "hidden_embeds" if model.facts["family"] == XL else "last_hidden_state"
    return {hidden: public, pooled: "pooled_outputs"}, (hidden, pooled)


def _numbered(ports: Iterator[str]) -> dict[str, str]:
    """A ControlNet's residuals: those of the way down, then that of the middle."""
    return {name: f"additional_residual_{i}" for i, name in enumerate(ports)}


def _baked(model: Model, graph: Graph, made: Signature, asked: Wanted) -> Iterator[tuple[str, Any]]:
    for port in graph.inputs:
        shape = made.shape(port, ())
        if port.name == "timestep_cond":
            yield port.name, np.repeat(guidance_embedding(guidance(model, asked), shape[1]), shape[0], 0)
        elif port.name == "conditioning_scale":
            yield port.name, np.ones(shape, np.float32)


def guidance(model: Model, asked: Wanted) -> float:
    """The guidance scale that is baked into a network which reads one."""
    given = asked.guidance_scale
    return float(model.defaults["guidance_scale"] if given is None else given)


def check(model: Model, asked: Wanted) -> None:
    """Refuse what the package cannot feed, or would draw wrongly.

    Raises:
        UnsupportedError: the message says why. Wrong schedules pass with ``force``.
    """
    if asked.guidance_scale is not None and not model.facts["guidance_embedding"]:
        raise UnsupportedError(
            "guidance_scale: this network reads none, so that nothing is to be baked; set it in the app."
        )
    _require_shapes(model, asked)
    _require_tokenizer(model)
    wrong = list(_unlike(model.facts["scheduler"]))
    if wrong and not asked.force:
        raise UnsupportedError(
            f"layout apple: {'; '.join(wrong)}. Apple's package would draw noise with this model; --force "
            "writes it all the same, for an app that has a scheduler of its own."
        )


def _require_shapes(model: Model, asked: Wanted) -> None:
    facts, roles = model.facts, {part.role for part in model.parts}
    latents, family = facts["latents"], facts["family"]
    denoiser = next(part for part in model.parts if part.role == "denoiser")
    read = next(port.value.channels for port in denoiser.graph.inputs if port.name == "sample")
    if read != latents["channels"]:
        raise _refused(
            f"this U-Net reads {read} channels, latents have {latents['channels']} (an inpainting or "
            "instruct model), and the package draws noise in the shape of 'sample'"
        )
    if latents["shift_factor"]:
        raise _refused(f"latents are shifted by {latents['shift_factor']}, which its pipelines do not undo")
    controls = facts.get("controls", ())
    if family == XL:
        if "text_encoder_2" not in roles:
            raise _refused("its SDXL pipeline reads TextEncoder2, and this model has no second text encoder")
        if controls:
            raise _refused("its SDXL pipeline has no ControlNets")
        lengths = {each["length"] for each in facts["text"]["encoders"]}
        if len(lengths) > 1:
            raise _refused(f"it joins the states of both text encoders, which have lengths {sorted(lengths)}")
    if any(control["channels"] != 3 for control in controls):
        raise _refused("it feeds ControlNets pictures of 3 channels, and this one reads others")
    if asked.batch is not None and asked.batch > 2:
        raise _refused(f"it feeds 2 rows for guidance, or 1; not {asked.batch}")
    if asked.batch == 1 and (family == XL or controls):
        kind = "SDXL pipeline" if family == XL else "ControlNet"
        raise _refused(f"its {kind} always feeds 2 rows, not 1")


def _require_tokenizer(model: Model) -> None:
    folder = tokenizer_of(model)
    missing = [name for name in TOKENIZER_FILES if f"{folder}/{name}" not in model.files]
    if missing:
        raise _refused(f"it reads {' and '.join(missing)}, which this model's tokenizer has not")
    known = json.loads(model.files[f"{folder}/vocab.json"])
    lacking = [token for token in (_START, _END) if token not in known]
    if lacking:
        raise _refused(f"its tokenizer frames prompts with {' and '.join(lacking)}, which vocab.json lacks")


def tokenizer_of(model: Model) -> str:
    """The folder of the first tokenizer."""
    return next(name for name in ("tokenizer", "tokenizer_2") if f"{name}/tokenizer.json" in model.files)


def _unlike(scheduler: Mapping[str, Any]) -> Iterator[str]:
    """How a model's noise schedule differs from the one that both of the package's schedulers have."""
    kind = scheduler.get("prediction_type", "epsilon")
    if kind != "epsilon":
        yield f"the network predicts {kind}, and its schedulers take every prediction for epsilon"
    told = {**_UNSAID, **{key: scheduler[key] for key in _UNSAID if scheduler.get(key) is not None}}
    if told != _BETAS or scheduler.get("trained_betas") is not None:
        begin, end = told["beta_start"], told["beta_end"]
        yield (
            f"betas are {told['beta_schedule']} from {begin} to {end}, and its are scaled_linear from "
            "0.00085 to 0.012"
        )
    if scheduler.get("rescale_betas_zero_snr"):
        yield "betas are rescaled to zero SNR, which its are not"
    if scheduler.get("num_train_timesteps", 1000) != 1000:
        yield f"trained with {scheduler['num_train_timesteps']} timesteps, and it assumes 1000"


def notes(model: Model, asked: Wanted) -> Iterator[str]:
    """What an app that uses the package must set, or loses."""
    facts, defaults = model.facts, model.defaults
    xl = facts["family"] == XL
    wrong = list(_unlike(facts["scheduler"]))
    if wrong:
        yield f"only for an app with a scheduler of its own: {'; '.join(wrong)}"
    else:
        yield _scheduler(str(facts["scheduler"].get("_class_name", "")))
    scale = facts["latents"]["scaling_factor"]
    if scale != _SCALE:
        yield f"set decoderScaleFactor and encoderScaleFactor to {scale:g}; the package assumes {_SCALE}"
    if facts["guidance_embedding"]:
        yield (
            f"guidance {guidance(model, asked):g} is baked into the U-Net; in the app ask for guidanceScale "
            f"{'below 1, which makes one pass per step' if asked.batch == 1 else '1'}"
        )
    if defaults.get("recipe"):
        yield (
            f"drawn in few steps ({defaults['recipe']}): the package has neither LCM nor Euler, and its "
            "DPM-Solver++ comes nearest"
        )
        if asked.batch != 1 and not xl and not facts.get("controls"):
            yield "half of each pass without guidance is wasted; --batch 1 and guidanceScale below 1 avoid it"
    if xl and facts["text"].get("zero_negative"):
        yield "without a negative prompt the package encodes an empty one; this model was made for zeros"
    if xl and "text_encoder" not in {part.role for part in model.parts}:
        yield "a refiner: beside a base model its U-Net is to be named UnetRefiner"
    pad = _pad(model)
    if not xl and pad not in (None, _END):
        yield f"prompts are padded with {pad!r} in training, and with {_END!r} by the package"
    if not writes_encoder(model):
        yield "VAEEncoder is left out: the package reads 4 channels of means, then 4 of variances"


def _scheduler(name: str) -> str:
    if name in _SCHEDULERS:
        return f"schedulerType {_SCHEDULERS[name]} is this model's own scheduler"
    return f"{name or 'its scheduler'} is not in the package; .dpmSolverMultistepScheduler comes nearest"


def _pad(model: Model) -> str | None:
    name = f"{tokenizer_of(model)}/special_tokens_map.json"
    found = json.loads(model.files[name]).get("pad_token") if name in model.files else None
    text = found.get("content") if isinstance(found, dict) else found
    return text if isinstance(text, str) else None


def writes_encoder(model: Model) -> bool:
    """Whether the package can read what the model's encoder gives: the posterior of four channels."""
    given = [part.graph.outputs[0].value.channels for part in model.parts if part.role == "encoder"]
    return given == [8]


def _refused(reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"layout apple: Apple's package cannot use this model: {reason}. The layout edgediff can hold it."
    )
