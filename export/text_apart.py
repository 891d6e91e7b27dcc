"""A model whose denoiser is given the keys and values of the text, which a graph of their own makes."""

from __future__ import annotations

from dataclasses import replace

from edgediff.errors import UnsupportedError
from edgediff.export.emit.graph import Graph
from edgediff.export.emit.split_text import TEXT, split_text
from edgediff.export.families.parts import Model, Part

ROLE = "text_projections"
_DENOISERS = ("denoiser", "controlled_denoiser")


def with_text_apart(model: Model, asked: bool = True) -> Model:
    """The model with a part ``text_projections``, to whose folder the weights go that make them.

    Both forms of a denoiser (with and without inputs for a ControlNet's residuals) read the same projections.
    ControlNets go on reading the text itself.

    Raises:
        UnsupportedError: the model has no denoiser that reads text.
    """
    if not asked:
        return model
    parts: list[Part] = []
    projections: Graph | None = None
    for part in model.parts:
        if part.role not in _DENOISERS:
            parts.append(part)
            continue
        first, rest = split_text(part.graph)
        if projections is None:
            projections = first
            trial = {TEXT: part.trial[TEXT]}
            parts.append(
                replace(part, role=ROLE, folder=ROLE, graph=first, trial=trial, file="model", overflows=False)
            )
        elif _says(first) != _says(projections):
            raise UnsupportedError(f"{part.role}: it projects its text otherwise than the denoiser does.")
        extents = dict.fromkeys((port.name for port in first.outputs), part.trial[TEXT])
        parts.append(replace(part, graph=rest, trial={**part.trial, **extents}))
    text = model.facts.get("text")
    if projections is None or text is None:
        raise UnsupportedError("the model has no denoiser that reads text; leave --split-text out.")
    facts = {**model.facts, "text": {**text, "projections": ROLE}}
    return replace(model, parts=tuple(parts), facts=facts)


def _says(graph: Graph) -> list[tuple[str, tuple[str, ...]]]:
    """What a graph of projections gives, and the weights that it makes each of."""
    made = {node.output.id: tuple(p.name for p in node.parameters) for node in graph.nodes}
    return [(port.name, made[port.value.id]) for port in graph.outputs]
