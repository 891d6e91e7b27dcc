"""Draws with a bundle as its users do, and shows every pass of a graph to whoever wants to look.

A graph sees in use what its sampler makes, step by step, from prompts; random numbers are something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgediff import latents, tasks
from edgediff.bundle import Bundle
from edgediff.parts import Parts
from edgediff.runtime import Tensor

Array = np.ndarray[Any, Any]
PICTURES = ("decoder", "tiny_decoder", "encoder")
"""Roles that are judged by what they give; all others by the latents that are drawn with them."""
Seen = Callable[[str, Mapping[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]
"""Called after each pass with the role, its inputs and outputs; gives back those that the task gets."""


class Watched(Parts):
    """Parts whose every pass is shown to ``seen``. Graphs are loaded where they are used, and not ahead."""

    seen: Seen

    def run(self, role: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a role's graph once, and show what went in and what came out."""
        return self.seen(role, inputs, super().run(role, inputs))

    def prefetch(self, roles: Sequence[str]) -> None:
        """Load nothing ahead: memory is to hold one network at a time."""

    def only(self, roles: Sequence[str]) -> None:
        """Close every graph but those of ``roles``."""
        for role in [role for role in self._graphs if role not in roles]:
            self._graphs.pop(role).close()


def asked(
    bundle: Bundle,
    prompts: Sequence[str],
    seeds: int | Sequence[int],
    steps: int | None = None,
    picture: Array | None = None,
    control: Array | None = None,
) -> tasks.Request:
    """A checked call of the task that the bundle is for: from text where it can, else from ``picture``.

    Without ``steps`` it walks as many as the bundle does; so do bundles of fixed timesteps. ``control``
    steers it, through every ControlNet that the bundle has. Pictures are (height, width, 3), in [0, 1].

    Raises:
        InputError: the bundle cannot be called so.
    """
    chosen: dict[str, Any] = {"seed": seeds if isinstance(seeds, int) else tuple(seeds)}
    if bundle.defaults.timesteps is None and steps is not None:
        chosen["num_inference_steps"] = steps
    if bundle.tasks and "text2image" not in bundle.tasks:
        chosen["image"] = picture
    if bundle.tasks == ("inpaint",) and picture is not None:
        chosen["mask_image"] = np.ones(picture.shape[:2], np.float32)
    if control is not None:
        count = len(bundle.controls)
        chosen["control_image"] = control if count == 1 else [control] * count
    return tasks.checked(bundle, list(prompts), **chosen)


def passes(request: tasks.Request) -> int:
    """How often the denoiser is called, guidance not counted: some samplers call it twice a step."""
    called = 0
    call = request.call

    def count(x: Array, at: object) -> Array:
        nonlocal called
        called += 1
        return x

    nothing = np.zeros((call.batch, 1, 1, 1), np.float32)
    for _ in call.solver.sampler(count, nothing, call.schedule, call.stream()):
        pass
    return called


def draw(parts: Watched, requests: Sequence[tasks.Request], decoded: bool = True) -> Iterator[Array]:
    """Draw every request; the pictures of each as the decoder gives them, (B, 3, H, W) around [-1, 1].

    First all texts and pictures are encoded, then all samples are denoised, then all are decoded, so that
    each network is loaded once and memory holds one at a time. Without ``decoded`` the latents are given.
    """
    plans = [tasks.plan(parts, request) for request in requests]
    done: list[Array] = []
    for request, plan in zip(requests, plans, strict=True):
        parts.only(request.call.denoisers)
        x = plan.x
        for step in plan:
            x = step.x
        done.append(x)
    yield from decode(parts, done) if decoded else done


def decode(parts: Watched, drawn: Sequence[Array], decoder: str = "full") -> list[Array]:
    """The pictures of latents as a decoder, ``full`` or ``tiny``, gives them: (B, 3, H, W), around
    [-1, 1]."""
    parts.only((latents.chosen(parts.bundle, decoder)[0],))
    return [latents.decode(parts, each, decoder) for each in drawn]


def encode(parts: Watched, pictures: Sequence[Array]) -> list[Array]:
    """The latents of pictures (B, 3, H, W), in [-1, 1]."""
    parts.only(("encoder",))
    return [latents.encode(parts, each) for each in pictures]
