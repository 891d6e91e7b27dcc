"""The two layouts: networks' names, batches and public sides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from edgediff.export.coreml import apple
from edgediff.export.coreml.content import CHUNKED, Planned, form_of
from edgediff.export.coreml.extents import extents_of, sizes_of
from edgediff.export.coreml.options import Wanted
from edgediff.export.emit.mil_form import Signature
from edgediff.export.families.parts import Model, Part

FOLDER = "coreml"
"""Where a bundle keeps its packages; the layout ``apple`` has them in the folder itself."""
NAMES = {
    "text_encoder": "TextEncoder",
    "text_encoder_2": "TextEncoder2",
    "denoiser": "Unet",
    "controlled_denoiser": "ControlledUnet",
    "decoder": "VAEDecoder",
    "tiny_decoder": "VAETinyDecoder",
    "encoder": "VAEEncoder",
}
_STEERED = ("denoiser", "controlled_denoiser", "control")


def planned(model: Model, asked: Wanted, controlnets: Sequence[str] = ()) -> tuple[Planned, ...]:
    """Every network of a model in the layout asked for; ``controlnets`` name the added ones, in order.

    Raises:
        InputError: a size does not fit the model. UnsupportedError: the layout cannot hold the model.
    """
    if asked.layout == "apple":
        apple.check(model, asked)
    chosen = sizes_of(model, asked)
    names = {**NAMES, **_controls(model, controlnets)}
    found = []
    for part in model.parts:
        extents = tuple(extents_of(model, part, size) for size in chosen)
        batch = _batch(part, asked)
        if asked.layout == "apple":
            signature = apple.signature(model, part, extents, batch, asked)
        else:
            signature = Signature(extents, batch)
        chunk = asked.chunk and part.role in CHUNKED
        found.append(Planned(part, names[part.role], form_of(model, part, asked), signature, chunk))
    return tuple(found)


def _batch(part: Part, asked: Wanted) -> int:
    """Rows of a program: guidance doubles those of the networks that are asked at every step."""
    if not part.role.startswith(_STEERED):
        return 1
    if asked.batch is not None:
        return asked.batch
    return 2 if asked.layout == "apple" else 1


def _controls(model: Model, added: Sequence[str]) -> dict[str, str]:
    """A name for each ControlNet: of the folder, file or hub's id that it was read from."""
    roles = [control["role"] for control in model.facts.get("controls", ())]
    own = [f"ControlNet{i + 1 if i else ''}" for i in range(len(roles) - len(added))]
    found: dict[str, str] = {}
    for role, given in zip(roles, [*own, *map(_stem, added)], strict=True):
        name, count = given, 1
        while name in found.values():
            count += 1
            name = f"{given}{count}"
        found[role] = name
    return {role: f"controlnet/{name}" for role, name in found.items()}


def _stem(path: str) -> str:
    last = PurePath(path.partition("@")[0]).name.removesuffix(".safetensors")
    return re.sub(r"[^\w-]+", "_", last).strip("_")[:80] or "ControlNet"
