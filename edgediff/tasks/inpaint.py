"""Inpainting: draw anew where a mask says so, and keep the rest.

Networks trained for it (latents, mask and masked picture as input) are told what to keep; ordinary ones have
the known region put back, at the right noise level, before every call (Lugmayr et al., 2022, RePaint, eq. 8,
without resampling). Noise is drawn in this order: the posterior of the picture (where its latents are
needed), the noise of the start, the posterior of the masked picture, then what the sampler draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from edgediff import latents
from edgediff.bundle import Bundle
from edgediff.conditioning import network_of, planned
from edgediff.errors import InputError
from edgediff.noise import Noise, PerPicture
from edgediff.parts import Parts
from edgediff.plan import Plan
from edgediff.sampler import Array
from edgediff.tasks import call as calls
from edgediff.tasks import framing, masks
from edgediff.tasks import request as check
from edgediff.tasks.call import Call, Shared
from edgediff.tasks.image2image import noised, spread
from edgediff.tasks.masks import Original


@dataclass(frozen=True, slots=True)
class Request:
    """A checked call with pictures in [-1, 1], shape (n, 3, H, W), and masks of 0 (keep) and 1, (n, 1, H, W).

    ``original`` is what the result is laid over, where something of it is to stay as it is, byte for byte.
    """

    call: Call
    pictures: Array
    masks: Array
    strength: float
    original: Original | None

    @property
    def seed(self) -> check.Seeds:
        return self.call.seed


def request(
    bundle: Bundle,
    prompt: str | Sequence[str] | None,
    image: Any,
    mask_image: Any,
    *,
    strength: float = 1.0,
    mask_blur: float = 0.0,
    padding_mask_crop: int | None = None,
    keep_unmasked: bool = False,
    fit: str | None = None,
    background: Any = None,
    **arguments: Unpack[Shared],
) -> Request:
    """Check a call; see :meth:`edgediff.Pipeline.inpaint`.

    Raises:
        InputError: an argument is wrong. Nothing has been loaded by then.
    """
    check.encoder(bundle)
    check.task(bundle, "inpaint")
    if image is None:
        raise InputError("mask_image: it says what to draw anew of an image; give the image too.")
    height, width = arguments.pop("height", None), arguments.pop("width", None)
    blur = check.number("mask_blur", mask_blur, 0, 256)
    if padding_mask_crop is None:
        pictures, size, own = framing.framed(bundle, image, height, width, fit, background)
        shown = masks.read(mask_image, own, fit, size, blur)
        original = Original(pictures, shown, None) if keep_unmasked else None
        inner = shown
    else:
        pad = check.whole("padding_mask_crop", padding_mask_crop, 0, check.MAX_SIZE)
        size = check.sizes(bundle, {"height": height, "width": width})
        original = masks.original(image, mask_image, background, blur, size, pad)
        pictures, inner = original.cropped(size)
        if arguments.get("control_image") is not None:
            arguments["control_image"] = original.steered(arguments["control_image"], size, background)
    arguments["height"], arguments["width"] = size["height"], size["width"]
    call = calls.checked(bundle, prompt, strength=strength, fit=fit, background=background, **arguments)
    framing.check_count("image", len(pictures), call.count)
    framing.check_count("mask_image", len(inner), call.count)
    hard = np.stack(inner)[:, None] >= 0.5
    return Request(call, framing.signed(pictures), hard.astype(np.float32), float(strength), original)


def plan(parts: Parts, asked: Request) -> Plan:
    """Encode prompts and pictures and return the plan; the denoiser and the decoder have not run yet."""
    call, bundle = asked.call, parts.bundle
    parts.prefetch((*parts.bundle.prompt_roles, "encoder", *call.denoisers, *call.savings.loaded_early))
    noise = call.stream()
    shape = check.latent_shape(bundle, call.batch, call.size)
    reads = next(spec for spec in parts.graph(call.denoiser).info.inputs if spec.name == "sample").dims[1]
    told = reads != bundle.latents.channels  # the network reads mask and masked picture beside the latents
    known = None
    if not told or asked.strength < 1 or call.resumed:
        known = _encoded(parts, asked.pictures, noise, call)
    drawn = noise.draw(shape) if call.latents is None or call.resumed else call.latents
    if known is not None and call.resumed:
        x = known if call.latents is None else call.latents
    elif known is None or asked.strength == 1:
        x = np.float32(call.schedule.start) * drawn
    else:
        x = noised(call.schedule, known, drawn)
    small = spread(_shrunk(asked.masks, shape), call)
    hidden = _encoded(parts, asked.pictures * (asked.masks < 0.5), noise, call)
    if told:
        network = network_of(parts, call, np.concatenate([small, hidden], axis=1))
        return planned(parts, call, network, x, noise)
    assert known is not None
    whole = planned(parts, call, network_of(parts, call), x, noise)
    return keeping(whole, known, small, drawn)


def keeping(plan: Plan, known: Array, mask: Array, drawn: Array) -> Plan:
    """Return a plan that keeps ``known`` latents where ``mask`` is 0.

    Before each call but the first, the known region is put at that call's noise level with the start's own
    noise, as diffusers does after each step. Samplers are pointwise in their tensors, so the region that is
    drawn never sees what the other one's sample was in between. After the last step it is put back clean.
    """
    calls_made = 0

    def denoise(x: Array, at: Any) -> Array:
        nonlocal calls_made
        calls_made += 1
        if calls_made > 1:
            there = np.float32(at.alpha) * known + np.float32(at.sigma) * drawn
            x = (1 - mask) * there + mask * x
        return plan.denoise(x, at)

    def finish(done: Array) -> Array:
        return (1 - mask) * known + mask * done

    return replace(plan, denoise=denoise, finish=finish)


def _encoded(parts: Parts, pictures: Array, noise: Noise, call: Call) -> Array:
    """Return the latents of pictures, one for each result; a list of seeds draws from the first ones'."""
    stream = noise.first(len(pictures)) if isinstance(noise, PerPicture) else noise
    return spread(latents.encode(parts, pictures, stream), call)


def _shrunk(mask: Array, shape: tuple[int, ...]) -> Array:
    """Return a mask at the latents' size: the upper left pixel of each cell, as nearest-neighbour scaling."""
    rows, columns = mask.shape[2] // shape[2], mask.shape[3] // shape[3]
    return mask[:, :, ::rows, ::columns]
