"""How large every input of a model's graphs is at the size that the model draws unless told otherwise."""

from __future__ import annotations

from math import ceil

from edgediff.export.emit.graph import Kind
from edgediff.export.emit.sizes import Extents
from edgediff.export.families.parts import Model, Part

_FROM_PIXELS = ("encoder",)


def default_extents(model: Model, part: Part) -> dict[str, Extents]:
    """Extents by input, at the model's default size and its full length of text.

    The first picture of a graph has the size of the latents (of the encoder: of the pixels); all others keep
    to it the proportion that they have in the part's trial.
    """
    size, factors = model.defaults["size"], model.facts["latents"]["downscale"]
    pixels = (int(size["height"]), int(size["width"]))
    latents = (ceil(pixels[0] / factors["height"]), ceil(pixels[1] / factors["width"]))
    main = pixels if part.role in _FROM_PIXELS else latents
    pictures = [port.name for port in part.graph.inputs if port.value.kind is Kind.IMAGE]
    found: dict[str, Extents] = {}
    for port in part.graph.inputs:
        if port.value.kind in (Kind.TOKENS, Kind.IDS):
            found[port.name] = (int(model.facts["text"]["length"]),)
        elif port.value.kind is Kind.IMAGE:
            trial, first = part.trial[port.name], part.trial[pictures[0]]
            pairs = zip(main, trial, first, strict=True)
            found[port.name] = tuple(max(1, round(m * t / f)) for m, t, f in pairs)
    return found
