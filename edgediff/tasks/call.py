"""What every task drawn from text shares: a checked call, and the way from it to a plan.

Nothing is loaded while a call is checked; every fault is an InputError by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from edgediff import sampler as samplers
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, InputError
from edgediff.noise import Noise
from edgediff.runtime import Tensor
from edgediff.sampler import Array, Solver
from edgediff.schedule import Request as Steps
from edgediff.schedule import Schedule
from edgediff.tasks import request as check
from edgediff.tasks import savings, sizing, texts
from edgediff.tasks.limits import check_limits
from edgediff.tasks.savings import Saving, Savings
from edgediff.tasks.sizing import Ids, Sized
from edgediff.tasks.texts import Texts, Worded

if TYPE_CHECKING:
    from edgediff.tasks.control import Controls


class Others(Worded, Sized, Saving, total=False):
    """Arguments that are checked by :mod:`edgediff.tasks.texts`, ``sizing`` and ``savings``."""


class Shared(Others, total=False):
    """Arguments that all tasks take; :meth:`edgediff.Pipeline.__call__` says what each means."""

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
    denoising_start: float | None
    denoising_end: float | None
    control_image: Any
    controlnet_conditioning_scale: float | Sequence[float] | None
    control_guidance_start: float | Sequence[float] | None
    control_guidance_end: float | Sequence[float] | None
    guess_mode: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A checked call. ``batch`` results: prompts in order, ``per_prompt`` of each.

    ``size_ids`` are the numbers about sizes that the denoiser reads, for prompts and for negatives.
    ``resumed`` says that what the call starts from stands part way: nothing is added to it.
    """

    texts: Texts
    size_ids: tuple[Ids, Ids]
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
    controls: Controls | None = None
    source: Noise | None = None
    savings: Savings = field(default_factory=Savings)

    @property
    def call(self) -> Call:
        """Itself: what requests of other tasks hold one of."""
        return self

    @property
    def count(self) -> int:
        """Different prompts."""
        return self.texts.count

    @property
    def batch(self) -> int:
        return self.count * self.per_prompt

    @property
    def denoiser(self) -> str:
        """The role of the graph that denoises."""
        return "denoiser" if self.controls is None else "controlled_denoiser"

    @property
    def denoisers(self) -> tuple[str, ...]:
        """Roles of all graphs that run in each step."""
        return (self.denoiser,) if self.controls is None else self.controls.roles

    def stream(self) -> Noise:
        """Return the noise to draw from: ``source``, which goes on from another call, or the seed's own."""
        return check.stream(self.seed, self.noise) if self.source is None else self.source

    @property
    def guided(self) -> bool:
        return self.texts.guided


def checked(
    bundle: Bundle,
    prompt: str | Sequence[str] | None,
    *,
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
    denoising_start: float | None = None,
    denoising_end: float | None = None,
    control_image: Any = None,
    controlnet_conditioning_scale: float | Sequence[float] | None = None,
    control_guidance_start: float | Sequence[float] | None = None,
    control_guidance_end: float | Sequence[float] | None = None,
    guess_mode: bool = False,
    strength: float | None = None,
    fit: str | None = None,
    background: Any = None,
    **others: Unpack[Others],
) -> Call:
    """Check a call against a bundle. ``strength`` is given by tasks that start from a picture; ``fit`` and
    ``background`` are for the control pictures.

    Raises:
        InputError: an argument is wrong.
    """
    defaults = bundle.defaults
    scale = (
        defaults.guidance_scale
        if guidance_scale is None
        else check.number("guidance_scale", guidance_scale, 0, 100)
    )
    rest: dict[str, Any] = dict(others)
    about_sizes = {name: rest.pop(name) for name in Sized.__annotations__ if name in rest}
    left_out = {name: rest.pop(name) for name in Saving.__annotations__ if name in rest}
    words = texts.checked(bundle, prompt, scale, **rest)
    count = words.count
    per_prompt = check.whole("num_images_per_prompt", num_images_per_prompt, 1, check.MAX_BATCH)
    batch = count * per_prompt
    if batch > check.MAX_BATCH:
        raise InputError(
            f"{batch} results were asked for at once; at most {check.MAX_BATCH} are drawn in one call."
        )
    check.chosen_steps(num_inference_steps, timesteps, sigmas)
    steered = {
        "controlnet_conditioning_scale": controlnet_conditioning_scale,
        "control_guidance_start": control_guidance_start,
        "control_guidance_end": control_guidance_end,
        "guess_mode": guess_mode,
    }
    asked = {"height": height, "width": width}
    controls, size = _controls(bundle, control_image, count, steered, asked, fit, background)
    shape = check.latent_shape(bundle, batch, size)
    own = sampler is None or sampler == defaults.sampler
    steps = _steps(bundle, num_inference_steps, timesteps, sigmas, own)._replace(
        tokens=int(np.prod(shape[2:]))
    )
    check_limits(
        bundle,
        {
            "guidance_scale": guidance_scale,
            "num_inference_steps": _asked_steps(num_inference_steps, steps),
        },
    )
    options = {} if eta is None else {"eta": check.number("eta", eta, 0, 1)}
    solver = samplers.find(bundle.scheduler, defaults.sampler if sampler is None else sampler, **options)
    resumed = denoising_start is not None
    if resumed:  # which says itself where to begin; the strength does not count
        schedule = solver.schedule(steps)
        strength = None if strength is None else check.strength(strength)
    elif strength is not None and _laid_out(bundle, solver):
        schedule = solver.schedule(steps._replace(strength=check.strength(strength)))
    else:
        schedule = solver.schedule(steps)
        schedule = schedule if strength is None else check.cut_by_strength(schedule, steps, strength)
    check_points(solver, schedule)
    schedule = check.part_way(schedule, solver, denoising_start, denoising_end)
    if resumed and latents is None and strength is None:
        raise InputError(
            "denoising_start: give the latents that stand there, as denoising_end returned them."
        )
    return Call(
        texts=words,
        size_ids=sizing.checked(bundle, size, **about_sizes),
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
        controls=controls,
        savings=savings.checked(bundle, schedule, words.guided, controls is not None, batch, **left_out),
    )


def _controls(
    bundle: Bundle,
    image: Any,
    count: int,
    options: dict[str, Any],
    asked: dict[str, int | None],
    fit: str | None,
    background: Any,
) -> tuple[Controls | None, dict[str, int]]:
    """Return what steers the denoiser, if anything does, and the size to draw."""
    if image is None:
        given = [name for name, value in options.items() if value is not None and value is not False]
        if given:
            raise InputError(f"{', '.join(given)}: there is no control_image; give one too.")
        return None, check.sizes(bundle, asked)
    from edgediff.tasks import control

    return control.checked(
        bundle,
        image,
        count,
        scale=options["controlnet_conditioning_scale"],
        start=options["control_guidance_start"],
        end=options["control_guidance_end"],
        guess=options["guess_mode"],
        fit=fit,
        background=background,
        **asked,
    )


def _steps(
    bundle: Bundle,
    count: int | None,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    own_sampler: bool,
) -> Steps:
    """Return what to ask of the schedule; the bundle's own timesteps where a call says nothing else."""
    defaults = bundle.defaults
    if count is None and timesteps is None and sigmas is None and own_sampler:
        timesteps = defaults.timesteps
    return Steps(
        check.whole(
            "num_inference_steps",
            defaults.num_inference_steps if count is None else count,
            1,
            check.MAX_STEPS,
        ),
        None if timesteps is None else tuple(check.number("timesteps", t, -1e3, 1e9) for t in timesteps),
        None if sigmas is None else tuple(check.number("sigmas", s, 0, 1e9) for s in sigmas),
    )


def _asked_steps(count: int | None, steps: Steps) -> int | None:
    """Return how many steps a call asks for, in whichever way; None where it leaves that to the bundle."""
    listed = steps.timesteps if steps.timesteps is not None else steps.sigmas
    return count if listed is None else len(listed)


def _laid_out(bundle: Bundle, solver: Solver) -> bool:
    """Whether the grid is laid out for the strength, not cut.

    diffusers' own pipeline for models of the Stable Diffusion 1 kind that were distilled with guidance does
    that; every other one leaves the first hops out.
    """
    return solver.name == "lcm" and bundle.guidance_embedding is not None and not bundle.size_ids


def check_points(solver: Solver, schedule: Schedule) -> None:
    """Refuse a schedule with a point where the network's output says nothing (epsilon at zero SNR)."""
    try:
        for here, _ in schedule.hops:
            solver.conversion(here)
    except BundleError as error:
        raise InputError(f"{solver.name} for {schedule.total} steps: {error}") from error
