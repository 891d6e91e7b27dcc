"""Text to image: classifier-free or embedded guidance over a text-conditioned denoiser.

Noise is drawn in this order: the start latents, then what the sampler draws at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from edgediff.bundle import Bundle
from edgediff.conditioning import network_of, planned
from edgediff.errors import InputError
from edgediff.parts import Parts
from edgediff.plan import Plan
from edgediff.tasks import call as calls
from edgediff.tasks import request as check
from edgediff.tasks.call import Call, Shared


def request(bundle: Bundle, prompt: str | Sequence[str] | None, **arguments: Unpack[Shared]) -> Call:
    """Check a call against a bundle; see :meth:`edgediff.Pipeline.__call__`.

    Raises:
        InputError: an argument is wrong. Nothing has been loaded by then.
    """
    if bundle.tasks and "text2image" not in bundle.tasks:
        raise InputError(
            f"this model draws no pictures from text alone; it does {', '.join(bundle.tasks)}: give an image "
            "and a mask_image."
        )
    return calls.checked(bundle, prompt, **arguments)


def plan(parts: Parts, call: Call) -> Plan:
    """Encode the prompts and return the plan; the denoiser and the decoder have not run yet."""
    parts.prefetch(("text_encoder", "denoiser", "decoder"))
    network = network_of(parts, call)
    noise = check.stream(call.seed, call.noise)
    if call.resumed and call.latents is not None:
        x = call.latents
    else:
        shape = check.latent_shape(parts.bundle, call.batch, call.size)
        x = noise.draw(shape) if call.latents is None else call.latents
        x = np.float32(call.schedule.start) * x
    return planned(parts, call, network, x, noise)
