"""What a call of a pipeline returns, and what callers may ask of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgediff.errors import InputError
from edgediff.runtime import Tensor

if TYPE_CHECKING:
    from edgediff.tasks.request import Seeds

OUTPUT_TYPES = ("pil", "np", "latent")


@dataclass(frozen=True, slots=True)
class Output:
    """What a call returns. Indexing gives diffusers' tuple: ``output[0]`` is ``output.images``.

    ``images``: PIL images (``pil``), an array (B, H, W, 3) in [0, 1] (``np``), or latents (``latent``).
    ``seed``: the seed or seeds used, also when none was given. ``timings``: seconds by stage.
    """

    images: Any
    seed: Seeds
    timings: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, index: int) -> Any:
        return (self.images,)[index]


def check_output(output_type: str, tensors: Sequence[str]) -> None:
    """Refuse an ``output_type`` that is none, and tensors that no callback is handed."""
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type: {output_type!r} is unknown; choose one of {', '.join(OUTPUT_TYPES)}.")
    if set(tensors) - {"latents"}:
        raise InputError(f"callback_on_step_end_tensor_inputs: {list(tensors)}; only latents are handed out.")


def replace(x: Tensor, latents: Any) -> None:
    """Let what a callback gave take the place of the latents ``x``; None leaves them."""
    if latents is not None and latents is not x:
        if np.shape(latents) != x.shape:
            raise InputError(
                f"callback_on_step_end: latents of shape {np.shape(latents)} cannot replace {x.shape}."
            )
        x[...] = latents
