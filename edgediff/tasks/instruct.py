"""Instructions: change a picture as a text says (Brooks et al., 2023, InstructPix2Pix).

The network was trained with the picture's latents beside the noisy ones, so the whole schedule is walked, and
guidance has a scale for the text and one for the picture. Noise is drawn in this order: the start latents,
then what the sampler draws at each step; of the picture the posterior's mean is taken, which draws nothing.
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
from edgediff.parts import Parts
from edgediff.plan import Plan
from edgediff.sampler import Array
from edgediff.tasks import call as calls
from edgediff.tasks import framing
from edgediff.tasks import request as check
from edgediff.tasks.call import Call, Shared
from edgediff.tasks.image2image import spread
from edgediff.tasks.text2image import started


@dataclass(frozen=True, slots=True)
class Request:
    """A checked call and the pictures to change, in [-1, 1], shape (1 or prompts, 3, H, W)."""

    call: Call
    pictures: Array
    image_guidance_scale: float

    @property
    def seed(self) -> check.Seeds:
        return self.call.seed


def request(
    bundle: Bundle,
    prompt: str | Sequence[str] | None,
    image: Any = None,
    *,
    image_guidance_scale: float = 1.5,
    fit: str | None = None,
    background: Any = None,
    **arguments: Unpack[Shared],
) -> Request:
    """Check a call; see :meth:`edgediff.Pipeline.instruct`.

    Raises:
        InputError: an argument is wrong. Nothing has been loaded by then.
    """
    check.encoder(bundle)
    check.task(bundle, "instruct")
    if image is None:
        raise InputError("image: an instruction says what to change in a picture; give the image.")
    if arguments.get("control_image") is not None:
        raise InputError("control_image: instructions take none; the image itself steers what is drawn.")
    scale = check.number("image_guidance_scale", image_guidance_scale, 0, 100)
    if scale < 1:  # as in diffusers, where the one is off without the other
        arguments["guidance_scale"] = 1.0
    height, width = arguments.pop("height", None), arguments.pop("width", None)
    pictures, size, _ = framing.framed(bundle, image, height, width, fit, background)
    arguments["height"], arguments["width"] = size["height"], size["width"]
    call = calls.checked(bundle, prompt, **arguments)
    framing.check_count("image", len(pictures), call.count)
    return Request(call, framing.signed(pictures), scale)


def plan(parts: Parts, asked: Request) -> Plan:
    """Encode prompts and pictures and return the plan; the denoiser and the decoder have not run yet."""
    call = asked.call
    parts.prefetch((*parts.bundle.prompt_roles, "encoder", *call.denoisers, *call.savings.loaded_early))
    told = spread(latents.encode(parts, asked.pictures, scaled=False), call)
    if call.guided:
        told = np.concatenate([told, told, np.zeros_like(told)])
    network = network_of(parts, call, told, image_guidance=asked.image_guidance_scale)
    noise = call.stream()
    return planned(parts, call, network, started(parts, call, noise), noise)
