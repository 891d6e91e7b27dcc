"""Tasks, one file each: a request, checked before any work, and a function from request to plan."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgediff.bundle import Bundle
    from edgediff.parts import Parts
    from edgediff.plan import Plan
    from edgediff.tasks import image2image, inpaint, instruct
    from edgediff.tasks.call import Call

    Request = Call | image2image.Request | inpaint.Request | instruct.Request


_OWN = {
    "image": ("image2image", "inpaint", "instruct"),
    "mask_image": ("inpaint",),
    "strength": ("image2image", "inpaint"),
    "image_guidance_scale": ("instruct",),
    "mask_blur": ("inpaint",),
    "padding_mask_crop": ("inpaint",),
    "keep_unmasked": ("inpaint",),
}
"""Options that not all tasks take."""


def checked(bundle: Bundle, prompt: str | Sequence[str] | None, **arguments: Any) -> Request:
    """Check a call of the task that its arguments name: ``mask_image``, ``image``, or text alone.

    An ``image`` alone is changed by models made for instructions, and is the start for all others.

    Raises:
        InputError: an argument is wrong; nothing has been loaded.
    """
    from edgediff.errors import InputError

    given = {name: value for name, value in arguments.items() if value is not None}
    task = _named(bundle, given)
    for option in given:
        if task not in _OWN.get(option, (task,)):
            raise InputError(f"{option}: it is for {' and '.join(_OWN[option])}, and this is {task}.")
    if task == "inpaint":
        given.setdefault("image", None)
    module = importlib.import_module(f"edgediff.tasks.{task}")
    made: Request = module.request(bundle, prompt, **given)
    return made


def _named(bundle: Bundle, given: Collection[str]) -> str:
    """Return the task that arguments ask for."""
    if "mask_image" in given:
        return "inpaint"
    if "instruct" in bundle.tasks or "image_guidance_scale" in given:
        return "instruct"
    resumed = "denoising_start" in given and bundle.tasks and "text2image" not in bundle.tasks
    return "image2image" if "image" in given or resumed else "text2image"


def plan(parts: Parts, asked: Request) -> Plan:
    """Return the plan of a checked request, by the task that it belongs to."""
    module = importlib.import_module(_home(asked))
    made: Plan = module.plan(parts, asked)
    return made


def _home(asked: Request) -> str:
    home = type(asked).__module__
    return "edgediff.tasks.text2image" if home == "edgediff.tasks.call" else home


def finished(asked: Request, results: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return decoded results in [0, 1], (B, H, W, C), laid over the original where some of it is kept."""
    original = getattr(asked, "original", None)
    laid: NDArray[np.float32] = results if original is None else original.under(results)
    return laid
