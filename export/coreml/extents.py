"""The extents of every network's inputs, for the picture sizes that packages are made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgediff.agreement import residual
from edgediff.errors import InputError, UnsupportedError
from edgediff.export.coreml.options import Size, Wanted
from edgediff.export.emit.graph import Kind
from edgediff.export.emit.sizes import Extents, sizes
from edgediff.export.families.parts import Model, Part


def sizes_of(model: Model, asked: Wanted) -> tuple[Size, ...]:
    """The picture sizes, the default first.

    Raises:
        InputError: a size is no multiple of the autoencoder's factor.
        UnsupportedError: the model has ControlNets, and there are several sizes.
    """
    own = model.defaults["size"]
    chosen = asked.sizes or ((int(own["height"]), int(own["width"])),)
    factors = model.facts["latents"]["downscale"]
    for height, width in chosen:
        if height % factors["height"] or width % factors["width"]:
            raise InputError(
                f"size {height}x{width}: expected multiples of {factors['height']} and {factors['width']}, "
                "since shapes are fixed here."
            )
    if len(chosen) > 1 and any(part.role.startswith("control") for part in model.parts):
        raise UnsupportedError(
            f"{len(chosen)} sizes with a ControlNet: a program may have one input of several shapes, and "
            "these networks have more; export once for each size."
        )
    return chosen


def extents_of(model: Model, part: Part, size: Size) -> dict[str, Extents]:
    """The extents of each input of a part that has some, by port name."""
    factors = model.facts["latents"]["downscale"]
    latents = (size[0] // factors["height"], size[1] // factors["width"])
    residuals = _residuals(model, size) if part.role == "controlled_denoiser" else {}
    found: dict[str, Extents] = {}
    for port in part.graph.inputs:
        match port.value.kind:
            case Kind.IMAGE if port.name == "controlnet_cond":
                factor = part.trial[port.name][0] // part.trial["sample"][0]
                found[port.name] = (latents[0] * factor, latents[1] * factor)
            case Kind.IMAGE if port.name in residuals:
                found[port.name] = residuals[port.name]
            case Kind.IMAGE:
                found[port.name] = size if part.role == "encoder" else latents
            case Kind.IDS | Kind.TOKENS:
                found[port.name] = (text_length(model.facts, part.role),)
    return found


def text_length(facts: Mapping[str, Any], role: str) -> int:
    """The number of ids of a text encoder, or of states that other networks read."""
    encoders = {each["role"]: each for each in facts["text"].get("encoders", ())}
    return int(encoders.get(role, facts["text"])["length"])


def _residuals(model: Model, size: Size) -> dict[str, Extents]:
    """What the ControlNet gives, by the name that the U-Net has for it."""
    control = next(part for part in model.parts if part.role == "control")
    known = sizes(control.graph, extents_of(model, control, size))
    return {residual(port.name): known[port.value.id] for port in control.graph.outputs}
