"""A second model finishes what a first one began: the hand-over from SDXL's base model to its refiner.

Podell et al. (2023), "SDXL", section 2.5: the refiner was trained on the last, least noisy part of the
schedule alone. Latents pass from one to the other as they stand part way, so both must have the same
autoencoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgediff import tasks
from edgediff.bundle import Bundle
from edgediff.errors import InputError
from edgediff.noise import Noise
from edgediff.sampler import Array
from edgediff.tasks import image2image
from edgediff.tasks import request as check
from edgediff.tasks.call import Call

START = 0.8
"""The share of the schedule after which the refiner takes over, unless a call says otherwise."""

_BOTH = (
    "negative_prompt", "guidance_scale", "guidance_rescale", "num_images_per_prompt", "noise", "sampler",
    "eta", "clip_skip", "prompt_syntax", "original_size", "crops_coords_top_left",
)  # fmt: skip
"""Arguments that go to both models."""
_LAST = ("decoder", "tile_decode")
"""Arguments that go to the refiner, which decodes."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Two checked requests: the base's, which stops part way, and the refiner's, which goes on from there.

    They share one stream of noise, as two calls with one torch generator do.
    """

    first: tasks.Request
    rest: image2image.Request

    def second(self, latents: Array) -> image2image.Request:
        """Return the refiner's request for what the base came to."""
        return replace(self.rest, call=replace(self.rest.call, latents=latents), known=latents)


def checked(
    base: Bundle, refiner: Bundle, prompt: str | Sequence[str], start: float = START, **arguments: Any
) -> HandOver:
    """Check a call of both models; ``arguments`` are those of the base's task.

    The refiner walks the same number of steps, of which those after the share ``start`` are its own; what is
    not given comes from each bundle's own defaults.

    Raises:
        InputError: an argument is wrong, or the models' latents differ; nothing has been loaded.
    """
    share = check.number("refiner_start", start, 0, 1)
    if share in (0, 1):
        raise InputError(f"refiner_start: {share:g} leaves one of the models no step; give a share between.")
    if arguments.get("mask_image") is not None:
        raise InputError("mask_image: a refiner does not know what to keep; inpaint without one.")
    if base.latents != refiner.latents:
        raise InputError(
            f"refiner: the latents of {refiner.path} are not those of {base.path} (channels, size or scale "
            "differ); name the refiner that was made for this model."
        )
    last = {name: arguments.pop(name) for name in _LAST if name in arguments}
    first = tasks.checked(base, prompt, denoising_end=share, **arguments)
    call = first.call
    shared = {name: arguments[name] for name in _BOTH if name in arguments}
    steps: dict[str, Any] = {
        "timesteps": call.steps.timesteps,
        "sigmas": call.steps.sigmas,
        "num_inference_steps": call.steps.steps,
    }
    if call.steps.timesteps is not None or call.steps.sigmas is not None:
        del steps["num_inference_steps"]
    seed = list(call.seed) if isinstance(call.seed, tuple) else call.seed
    rest = image2image.request(
        refiner, prompt, denoising_start=share, seed=seed, **steps, **shared, **last,
        latents=np.zeros(check.latent_shape(base, call.batch, call.size), np.float32),
    )  # fmt: skip
    stream = call.stream()
    return HandOver(_drawing(first, stream), replace(rest, call=replace(rest.call, source=stream)))


def _drawing(asked: tasks.Request, stream: Noise) -> tasks.Request:
    """Return a request that draws its noise from ``stream``."""
    if isinstance(asked, Call):
        return replace(asked, source=stream)
    return replace(asked, call=replace(asked.call, source=stream))
