"""Tasks, one file each: a request, checked before any work, and a function from request to plan."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgediff.bundle import Bundle
    from edgediff.parts import Parts
    from edgediff.plan import Plan
    from edgediff.tasks import image2image, inpaint
    from edgediff.tasks.call import Call

    Request = Call | image2image.Request | inpaint.Request


def checked(bundle: Bundle, prompt: str | Sequence[str] | None, **arguments: Any) -> Request:
    """Check a call of the task that its arguments name: ``mask_image``, ``image``, or text alone.

    Raises:
        InputError: an argument is wrong; nothing has been loaded.
    """
    from edgediff.errors import InputError
    from edgediff.tasks import text2image

    if arguments.get("mask_image") is not None:
        from edgediff.tasks import inpaint

        if arguments.get("image") is None:
            raise InputError("mask_image: it says what to draw anew of an image; give the image too.")
        return inpaint.request(bundle, prompt, **arguments)
    if arguments.get("image") is not None:
        from edgediff.tasks import image2image

        return image2image.request(bundle, prompt, **arguments)
    return text2image.request(bundle, prompt, **arguments)


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
