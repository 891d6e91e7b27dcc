"""Image to image: start part way down the schedule, from a picture with noise (Meng et al., 2022, SDEdit).

The start may be latents instead. With ``denoising_start`` they, or the picture's, stand part way already, as
another call with ``denoising_end`` left them (the hand-over to a refiner, Podell et al., 2023, section 2.5):
nothing is added to them.

Noise is drawn in this order: the autoencoder's posterior (once for each given picture), the noise of the
start, then what the sampler draws at each step; what is not needed is not drawn.
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
    """A checked call and what to start from: pictures in [-1, 1], shape (1 or prompts, 3, H, W), or latents,
    shape (1, prompts or results, channels, h, w)."""

    call: Call
    pictures: Array | None
    known: Array | None = None

    @property
    def seed(self) -> check.Seeds:
        return self.call.seed


def request(
    bundle: Bundle,
    prompt: str | Sequence[str] | None,
    image: Any = None,
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
    drawn = image is not None and not _are_latents(bundle, image)
    if drawn:
        check.encoder(bundle)
    check.task(bundle, "image2image")
    height, width = arguments.pop("height", None), arguments.pop("width", None)
    given = image if image is not None else arguments.get("latents")
    known = None
    if image is None and (given is None or arguments.get("denoising_start") is None):
        raise InputError("image: give a picture to start from, or latents and denoising_start.")
    if drawn:
        pictures, size, _ = framing.framed(bundle, image, height, width, fit, background)
    else:
        known, size = _measured(bundle, "latents" if image is None else "image", given, height, width)
        pictures = []
    arguments["height"], arguments["width"] = size["height"], size["width"]
    call = calls.checked(bundle, prompt, strength=strength, fit=fit, background=background, **arguments)
    if known is None:
        framing.check_count("image", len(pictures), call.count)
        return Request(call, framing.signed(pictures))
    if len(known) not in (1, call.count, call.batch):
        raise InputError(f"image: latents of {len(known)} results were given for {call.batch}.")
    return Request(call, None, known)


def _are_latents(bundle: Bundle, image: Any) -> bool:
    """Tell latents from pictures: an array (B, channels, h, w), channels before the sides."""
    return (
        isinstance(image, np.ndarray)
        and image.dtype.kind == "f"
        and image.ndim == len(bundle.latents.axes)
        and image.shape[1] == bundle.latents.channels
    )


def _measured(
    bundle: Bundle, name: str, given: Any, height: int | None, width: int | None
) -> tuple[Array, dict[str, int]]:
    """Return latents as native float32, and their results' size by axis, which must be the one asked for."""
    array = np.asarray(given)
    facts = bundle.latents
    if array.dtype.kind != "f" or array.ndim != len(facts.axes) or not np.isfinite(array).all():
        raise InputError(
            f"{name}: expected finite floats with axes {', '.join(facts.axes)}, found {array.dtype} "
            f"{array.shape}."
        )
    own = {axis: array.shape[facts.axes.index(axis)] * factor for axis, factor in facts.downscale.items()}
    asked = {"height": height, "width": width}
    for axis, value in own.items():
        if asked.get(axis) not in (None, value):
            raise InputError(f"{axis}: {asked[axis]} was asked for; latents of {value} were given.")
    return np.ascontiguousarray(array, np.float32), check.sizes(bundle, own)


def plan(parts: Parts, asked: Request) -> Plan:
    """Encode prompts and pictures and return the plan; the denoiser and the decoder have not run yet."""
    call = asked.call
    encoder = () if asked.pictures is None else ("encoder",)
    parts.prefetch((*parts.bundle.prompt_roles, *encoder, *call.denoisers, *call.savings.loaded_early))
    network = network_of(parts, call)
    noise = call.stream()
    if call.latents is not None and call.resumed:
        return planned(parts, call, network, call.latents, noise)
    if asked.pictures is not None:
        known = encoded(parts, asked.pictures, noise, call)
    else:
        assert asked.known is not None  # a request has pictures or latents
        known = spread(asked.known, call)
    x = known if call.resumed else noised(call.schedule, known, _start(noise, call, known.shape))
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
