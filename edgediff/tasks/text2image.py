"""Text to image: classifier-free or embedded guidance over a text-conditioned denoiser.

Noise is drawn in this order: the start latents, then what the sampler draws at each step.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgediff import denoise as wrap
from edgediff import sampler as samplers
from edgediff.bundle import Bundle
from edgediff.errors import InputError, NumericError
from edgediff.parts import Parts
from edgediff.plan import Plan
from edgediff.prompt import checked_prompts
from edgediff.runtime import Tensor, fitted
from edgediff.sampler import Array, Solver
from edgediff.schedule import Point, Schedule
from edgediff.schedule import Request as Steps
from edgediff.tasks import request as check


@dataclass(frozen=True, slots=True)
class Request:
    """A checked call. ``batch`` results: prompts in order, ``per_prompt`` of each."""

    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    per_prompt: int
    guidance_scale: float
    guidance_rescale: float
    seed: check.Seeds
    size: Mapping[str, int]
    latents: Array | None
    schedule: Schedule
    solver: Solver

    @property
    def batch(self) -> int:
        return len(self.prompts) * self.per_prompt


def request(
    bundle: Bundle,
    prompt: str | Sequence[str],
    *,
    negative_prompt: str | Sequence[str] | None = None,
    num_inference_steps: int | None = None,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float = 0.0,
    height: int | None = None,
    width: int | None = None,
    num_images_per_prompt: int = 1,
    seed: int | Sequence[int] | None = None,
    latents: Tensor | None = None,
    sampler: str | None = None,
    eta: float | None = None,
) -> Request:
    """Check a call against a bundle; arguments as diffusers names them, see
    :meth:`edgediff.Pipeline.__call__`.

    Raises:
        InputError: an argument is wrong. Nothing has been loaded by then.
    """
    prompts = checked_prompts(prompt)
    per_prompt = check.whole("num_images_per_prompt", num_images_per_prompt, 1, check.MAX_BATCH)
    batch = len(prompts) * per_prompt
    if batch > check.MAX_BATCH:
        raise InputError(
            f"{batch} results were asked for at once; at most {check.MAX_BATCH} are drawn in one call."
        )
    defaults = bundle.defaults
    scale = (
        defaults.guidance_scale
        if guidance_scale is None
        else check.number("guidance_scale", guidance_scale, 0, 100)
    )
    guided = scale > 1 and bundle.guidance_embedding is None
    if negative_prompt is not None and not guided:
        reason = (
            "this model takes no negative prompt"
            if bundle.guidance_embedding
            else "guidance_scale is 1 or less"
        )
        warnings.warn(f"negative_prompt has no effect: {reason}.", stacklevel=3)
    negatives = checked_prompts("" if negative_prompt is None else negative_prompt, "negative_prompt")
    if len(negatives) not in (1, len(prompts)):
        raise InputError(
            f"negative_prompt: {len(negatives)} were given for {len(prompts)} prompts; give one, or one each."
        )
    size = check.sizes(bundle, {"height": height, "width": width})
    check.chosen_steps(num_inference_steps, timesteps, sigmas)
    count = defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
    steps = Steps(
        check.whole("num_inference_steps", count, 1, check.MAX_STEPS),
        None if timesteps is None else tuple(check.number("timesteps", t, 0, 1e9) for t in timesteps),
        None if sigmas is None else tuple(check.number("sigmas", s, 0, 1e9) for s in sigmas),
    )
    options = {} if eta is None else {"eta": check.number("eta", eta, 0, 1)}
    solver = samplers.find(bundle.scheduler, defaults.sampler if sampler is None else sampler, **options)
    schedule = solver.schedule(steps)
    if solver.config["prediction_type"] == "epsilon" and any(here.alpha == 0 for here, _ in schedule.hops):
        raise InputError(
            "the schedule starts at zero SNR, where a network that predicts epsilon knows nothing."
        )
    shape = check.latent_shape(bundle, batch, size)
    return Request(
        prompts=tuple(prompts),
        negatives=tuple(negatives * len(prompts) if len(negatives) == 1 else negatives) if guided else (),
        per_prompt=per_prompt,
        guidance_scale=scale,
        guidance_rescale=check.number("guidance_rescale", guidance_rescale, 0, 1),
        seed=check.seeds(seed, batch),
        size=size,
        latents=None if latents is None else check.start_latents(latents, shape),
        schedule=schedule,
        solver=solver,
    )


def plan(parts: Parts, call: Request) -> Plan:
    """Encode the prompts and return the plan; the denoiser and the decoder have not run yet."""
    bundle = parts.bundle
    parts.prefetch(("text_encoder", "denoiser", "decoder"))
    embeddings = encode(parts, call.negatives + call.prompts)
    embeddings = np.repeat(embeddings, call.per_prompt, axis=0)
    network = conditioned(parts, embeddings, call.guidance_scale)
    if call.negatives:
        network = wrap.guided(network, call.guidance_scale, call.guidance_rescale)
    noise = check.stream(call.seed)
    shape = check.latent_shape(bundle, call.batch, call.size)
    x = noise.draw(shape) if call.latents is None else call.latents
    return Plan(
        denoise=wrap.denoiser(network, call.solver.config["prediction_type"]),
        x=np.float32(call.schedule.start) * x,
        schedule=call.schedule,
        sampler=call.solver.sampler,
        noise=noise,
        decode=lambda latents: decode(parts, latents),
    )


def encode(parts: Parts, prompts: Sequence[str]) -> Array:
    """Return the text encoder's last hidden states, shape (len(prompts), tokens, dims)."""
    ids = parts.tokenizer()(prompts)
    spec = parts.graph("text_encoder").info.inputs[0]
    outputs = parts.run("text_encoder", {spec.name: ids.astype(spec.dtype)})
    hidden = outputs["last_hidden_state"]
    if not np.isfinite(hidden).all():
        raise NumericError("text_encoder: its output holds NaN or Inf; try a bundle of higher precision.")
    return hidden.astype(np.float32)


def conditioned(parts: Parts, embeddings: Array, guidance_scale: float) -> wrap.Network:
    """Return the denoiser graph as a network bound to its prompts (and to the guidance that it was distilled
    with)."""
    dims = parts.bundle.guidance_embedding
    extra = None if dims is None else wrap.guidance_embedding(guidance_scale, dims)

    def network(x: Array, at: Point) -> Array:
        inputs = {spec.name: spec for spec in parts.graph("denoiser").info.inputs}
        batch = len(x)
        feeds: dict[str, Tensor] = {
            "sample": x.astype(inputs["sample"].dtype, copy=False),
            "timestep": fitted(at.t, inputs["timestep"], batch),
            "encoder_hidden_states": embeddings.astype(inputs["encoder_hidden_states"].dtype, copy=False),
        }
        if extra is not None:
            feeds["timestep_cond"] = np.repeat(extra, batch, axis=0).astype(
                inputs["timestep_cond"].dtype, copy=False
            )
        out = next(iter(parts.run("denoiser", feeds).values()))
        return out.astype(np.float32, copy=False)

    return wrap.finite(network)


def encode_pictures(parts: Parts, pictures: Array) -> Array:
    """Return the mean latents, scaled for the denoiser, of pictures in [-1, 1], shape (B, 3, H, W)."""
    facts = parts.bundle.latents
    spec = parts.graph("encoder").info.inputs[0]
    out = next(iter(parts.run("encoder", {spec.name: pictures.astype(spec.dtype, copy=False)}).values()))
    if not np.isfinite(out).all():
        raise NumericError("encoder: its output holds NaN or Inf; try a bundle whose encoder is fp32.")
    mean = out[:, : facts.channels].astype(np.float32, copy=False)
    return (mean - np.float32(facts.shift_factor)) * np.float32(facts.scaling_factor)


def decode(parts: Parts, latents: Array) -> Array:
    """Return the decoder's picture in [-1, 1], shape (B, 3, H, W)."""
    facts = parts.bundle.latents
    scaled = latents / np.float32(facts.scaling_factor) + np.float32(facts.shift_factor)
    spec = parts.graph("decoder").info.inputs[0]
    out = next(iter(parts.run("decoder", {spec.name: scaled.astype(spec.dtype, copy=False)}).values()))
    if not np.isfinite(out).all():
        raise NumericError("decoder: its output holds NaN or Inf; try a bundle whose decoder is fp32.")
    return out.astype(np.float32, copy=False)
