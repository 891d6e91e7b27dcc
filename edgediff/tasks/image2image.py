"""Image to image: start part way down the schedule, from a picture with noise (Meng et al., 2022, SDEdit).

Noise is drawn in this order: the autoencoder's posterior (once for each given picture), the noise of the
start, then what the sampler draws at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from edgediff import latents
from edgediff.bundle import Bundle
from edgediff.conditioning import network_of, planned
from edgediff.errors import InputError
from edgediff.noise import Noise
from edgediff.parts import Parts
from edgediff.plan import Plan
from edgediff.sampler import Array
from edgediff.schedule import Schedule
from edgediff.tasks import call as calls
from edgediff.tasks import framing
from edgediff.tasks import request as check
from edgediff.tasks.call import Call, Shared


@dataclass(frozen=True, slots=True)
class Request:
    """A checked call and the pictures to start from, in [-1, 1], shape (1 or prompts, 3, H, W)."""

    call: Call
    pictures: Array

    @property
    def seed(self) -> check.Seeds:
        return self.call.seed


def request(
    bundle: Bundle,
    prompt: str | Sequence[str] | None,
    image: Any,
    *,
    strength: float = 0.8,
    fit: str | None = None,
    background: Any = None,
    **arguments: Unpack[Shared],
) -> Request:
    """Check a call; see :meth:`edgediff.Pipeline.image2image`.

    Raises:
        InputError: an argument is wrong. Nothing has been loaded by then.
    """
    if bundle.tasks and "text2image" not in bundle.tasks:
        raise InputError(f"this model does {', '.join(bundle.tasks)}: give a mask_image as well.")
    check.encoder(bundle)
    height, width = arguments.pop("height", None), arguments.pop("width", None)
    pictures, size, _ = framing.framed(bundle, image, height, width, fit, background)
    arguments["height"], arguments["width"] = size["height"], size["width"]
    call = calls.checked(bundle, prompt, strength=strength, **arguments)
    framing.check_count("image", len(pictures), call.count)
    return Request(call, framing.signed(pictures))


def plan(parts: Parts, asked: Request) -> Plan:
    """Encode prompts and pictures and return the plan; the denoiser and the decoder have not run yet."""
    call = asked.call
    parts.prefetch(("text_encoder", "encoder", "denoiser", "decoder"))
    network = network_of(parts, call)
    noise = check.stream(call.seed, call.noise)
    if call.latents is not None and call.resumed:
        x = call.latents
    else:
        known = encoded(parts, asked.pictures, noise, call)
        x = noised(call.schedule, known, _start(noise, call, known.shape))
    return planned(parts, call, network, x, noise)


def _start(noise: Noise, call: Call, shape: tuple[int, ...]) -> Array:
    return noise.draw(shape) if call.latents is None else call.latents


def encoded(parts: Parts, pictures: Array, noise: Noise, call: Call) -> Array:
    """Return the pictures' latents, one for each result, the posterior drawn.

    One seed draws once for each picture that was given; a list of seeds draws for each result from that
    result's own stream, as diffusers does.
    """
    if isinstance(call.seed, tuple):
        return latents.encode(parts, spread(pictures, call), noise)
    return spread(latents.encode(parts, pictures, noise), call)


def spread(pictures: Array, call: Call) -> Array:
    """Repeat pictures, one for all or one for each prompt, to one for each result."""
    return np.repeat(pictures, call.batch // len(pictures), axis=0)


def noised(schedule: Schedule, clean: Array, noise: Array) -> Array:
    """Return ``clean`` at the noise level of the schedule's first point."""
    at = schedule.hops[0][0]
    return np.float32(at.alpha) * clean + np.float32(at.sigma) * noise
