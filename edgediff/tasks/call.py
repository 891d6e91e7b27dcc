"""What every task drawn from text shares: a checked call, and the way from it to a plan.

Nothing is loaded while a call is checked; every fault is an InputError by then.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from edgediff import embeddings
from edgediff import sampler as samplers
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, InputError
from edgediff.prompt import checked_prompts
from edgediff.runtime import Tensor
from edgediff.sampler import Array, Solver
from edgediff.schedule import Request as Steps
from edgediff.schedule import Schedule
from edgediff.tasks import request as check


class Shared(TypedDict, total=False):
    """Arguments that all tasks take; :meth:`edgediff.Pipeline.__call__` says what each means."""

    negative_prompt: str | Sequence[str] | None
    num_inference_steps: int | None
    timesteps: Sequence[float] | None
    sigmas: Sequence[float] | None
    guidance_scale: float | None
    guidance_rescale: float
    height: int | None
    width: int | None
    num_images_per_prompt: int
    seed: int | Sequence[int] | None
    noise: str
    latents: Tensor | None
    sampler: str | None
    eta: float | None
    clip_skip: int | None
    prompt_syntax: str
    prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor | None
    denoising_start: float | None
    denoising_end: float | None


@dataclass(frozen=True, slots=True)
class Call:
    """A checked call. ``batch`` results: prompts in order, ``per_prompt`` of each.

    ``prompts`` is empty where ``embeds`` came from the caller; ``negatives`` and ``negative_embeds`` are both
    empty where nothing is guided. ``resumed`` says that ``latents`` stand part way, not at the start.
    """

    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    embeds: Array | None
    negative_embeds: Array | None
    syntax: str
    clip_skip: int | None
    per_prompt: int
    guidance_scale: float
    guidance_rescale: float
    seed: check.Seeds
    noise: str
    size: Mapping[str, int]
    latents: Array | None
    resumed: bool
    steps: Steps
    strength: float | None
    schedule: Schedule
    solver: Solver

    @property
    def call(self) -> Call:
        """Itself: what requests of other tasks hold one of."""
        return self

    @property
    def count(self) -> int:
        """Different prompts."""
        return len(self.prompts) if self.embeds is None else len(self.embeds)

    @property
    def batch(self) -> int:
        return self.count * self.per_prompt

    @property
    def guided(self) -> bool:
        return bool(self.negatives) or self.negative_embeds is not None


def checked(
    bundle: Bundle,
    prompt: str | Sequence[str] | None,
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
    noise: str = "torch",
    latents: Tensor | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    clip_skip: int | None = None,
    prompt_syntax: str = "plain",
    prompt_embeds: Tensor | None = None,
    negative_prompt_embeds: Tensor | None = None,
    denoising_start: float | None = None,
    denoising_end: float | None = None,
    strength: float | None = None,
) -> Call:
    """Check a call against a bundle. ``strength`` is given by tasks that start from a picture.

    Raises:
        InputError: an argument is wrong.
    """
    embeds = None if prompt_embeds is None else check.embeddings("prompt_embeds", prompt_embeds)
    if (prompt is None) == (embeds is None):
        raise InputError("prompt: give either a prompt or prompt_embeds.")
    prompts = [] if embeds is not None else checked_prompts(prompt)
    count = len(prompts) if embeds is None else len(embeds)
    per_prompt = check.whole("num_images_per_prompt", num_images_per_prompt, 1, check.MAX_BATCH)
    batch = count * per_prompt
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
    negatives, negative_embeds = _negatives(
        negative_prompt, negative_prompt_embeds, embeds, count, guided, bundle.guidance_embedding is not None
    )
    if prompt_syntax not in embeddings.SYNTAXES:
        raise InputError(
            f"prompt_syntax: {prompt_syntax!r} is unknown; use {' or '.join(embeddings.SYNTAXES)}."
        )
    check.chosen_steps(num_inference_steps, timesteps, sigmas)
    size = check.sizes(bundle, {"height": height, "width": width})
    shape = check.latent_shape(bundle, batch, size)
    planned = defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
    steps = Steps(
        check.whole("num_inference_steps", planned, 1, check.MAX_STEPS),
        None if timesteps is None else tuple(check.number("timesteps", t, -1e3, 1e9) for t in timesteps),
        None if sigmas is None else tuple(check.number("sigmas", s, 0, 1e9) for s in sigmas),
        tokens=int(np.prod(shape[2:])),
    )
    options = {} if eta is None else {"eta": check.number("eta", eta, 0, 1)}
    solver = samplers.find(bundle.scheduler, defaults.sampler if sampler is None else sampler, **options)
    if strength is not None and solver.name == "lcm" and bundle.guidance_embedding is not None:
        # A model distilled with guidance gets its grid laid out for the strength, as diffusers' own pipeline
        # for such models does; for every other one the first hops are left out.
        schedule = solver.schedule(steps._replace(strength=check.strength(strength)))
    else:
        schedule = solver.schedule(steps)
        schedule = schedule if strength is None else check.cut_by_strength(schedule, steps, strength)
    check_points(solver, schedule)
    resumed = denoising_start is not None
    schedule = check.part_way(schedule, solver, denoising_start, denoising_end)
    if resumed and latents is None and strength is None:
        raise InputError(
            "denoising_start: give the latents that stand there, as denoising_end returned them."
        )
    return Call(
        prompts=tuple(prompts),
        negatives=negatives,
        embeds=embeds,
        negative_embeds=negative_embeds,
        syntax=prompt_syntax,
        clip_skip=_clip_skip(bundle, clip_skip),
        per_prompt=per_prompt,
        guidance_scale=scale,
        guidance_rescale=check.number("guidance_rescale", guidance_rescale, 0, 1),
        seed=check.seeds(seed, batch, noise),
        noise=noise,
        size=size,
        latents=None if latents is None else check.start_latents(latents, shape),
        resumed=resumed,
        steps=steps,
        strength=None if strength is None else float(strength),
        schedule=schedule,
        solver=solver,
    )


def _clip_skip(bundle: Bundle, asked: int | None) -> int | None:
    """Return how many layers to leave out; 0, as None, is none. What the manifest rules out is refused."""
    if asked is None or check.whole("clip_skip", asked, 0, 64) == 0:
        return None
    outputs = bundle.graph("text_encoder").outputs
    if outputs:  # a folder without a manifest does not say
        embeddings.check_clip_skip(asked, outputs)
    return int(asked)


def check_points(solver: Solver, schedule: Schedule) -> None:
    """Refuse a schedule with a point where the network's output says nothing (epsilon at zero SNR)."""
    try:
        for here, _ in schedule.hops:
            solver.conversion(here)
    except BundleError as error:
        raise InputError(f"{solver.name} for {schedule.total} steps: {error}") from error


def _negatives(
    prompt: str | Sequence[str] | None,
    embeds: Tensor | None,
    positive: Array | None,
    count: int,
    guided: bool,
    embedded: bool,
) -> tuple[tuple[str, ...], Array | None]:
    """Return the negative prompts, one for each prompt, or their embeddings."""
    if prompt is not None and embeds is not None:
        raise InputError("negative_prompt: give either a text or negative_prompt_embeds.")
    if (prompt is not None or embeds is not None) and not guided:
        reason = "this model takes no negative prompt" if embedded else "guidance_scale is 1 or less"
        warnings.warn(f"negative_prompt has no effect: {reason}.", stacklevel=4)
    if embeds is not None:
        found = check.embeddings("negative_prompt_embeds", embeds)
        if positive is not None and found.shape[1:] != positive.shape[1:]:
            raise InputError(
                f"negative_prompt_embeds: {found.shape} and prompt_embeds {positive.shape} differ in tokens "
                "or width."
            )
        if len(found) not in (1, count):
            raise InputError(f"negative_prompt_embeds: {len(found)} for {count} prompts; give 1 or {count}.")
        return (), np.repeat(found, count // len(found), axis=0) if guided else None
    negatives = checked_prompts("" if prompt is None else prompt, "negative_prompt")
    if len(negatives) not in (1, count):
        raise InputError(
            f"negative_prompt: {len(negatives)} were given for {count} prompts; give one, or one each."
        )
    return tuple(negatives * count if len(negatives) == 1 else negatives) if guided else (), None
