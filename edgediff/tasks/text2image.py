"""Text to image: classifier-free or embedded guidance over a text-conditioned denoiser.

Noise is drawn in this order: the start latents, then what the sampler draws at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from edgediff.bundle import Bundle
from edgediff.conditioning import network_of, planned
from edgediff.errors import InputError
from edgediff.noise import Noise
from edgediff.parts import Parts
from edgediff.plan import Plan
from edgediff.sampler import Array
from edgediff.tasks import call as calls
from edgediff.tasks import request as check
from edgediff.tasks.call import Call, Shared


def request(
    bundle: Bundle,
    prompt: str | Sequence[str] | None,
    *,
    fit: str | None = None,
    background: Any = None,
    **arguments: Unpack[Shared],
) -> Call:
    """Check a call against a bundle; see :meth:`edgediff.Pipeline.__call__`.

    Raises:
        InputError: an argument is wrong. Nothing has been loaded by then.
    """
    check.task(bundle, "text2image")
    if arguments.get("control_image") is None and (fit is not None or background is not None):
        raise InputError("fit, background: there is no picture that they could be for.")
    return calls.checked(bundle, prompt, fit=fit, background=background, **arguments)


def plan(parts: Parts, call: Call) -> Plan:
    """Encode the prompts and return the plan; the denoiser and the decoder have not run yet."""
    parts.prefetch((*parts.bundle.prompt_roles, *call.denoisers, *call.savings.loaded_early))
    network = network_of(parts, call)
    noise = call.stream()
    return planned(parts, call, network, started(parts, call, noise), noise)


def started(parts: Parts, call: Call, noise: Noise) -> Array:
    """Return the start of a whole walk: noise, or the latents given, scaled; or where a walk is resumed."""
    if call.resumed and call.latents is not None:
        return call.latents
    shape = check.latent_shape(parts.bundle, call.batch, call.size)
    x = noise.draw(shape) if call.latents is None else call.latents
    return np.float32(call.schedule.start) * x
