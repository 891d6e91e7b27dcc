"""A model with reduced self-attention, and whether what it loses can be told from its weights at all."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from edgediff.errors import UnsupportedError
from edgediff.export.emit.reduce import Cut, Reduction, levels_of, parse, reduced
from edgediff.export.families.parts import Model, Part

_DENOISERS = ("denoiser", "controlled_denoiser")
_WITH_THEM = ("control", "shallow_denoiser")
_LEAST_INPUTS, _LEAST_OUTPUTS, _LARGEST, _WEIGHTS = 32, 8, 1 << 20, 40
UNMEASURED = "what reduced attention costs was not measured: no receipt was asked for"
UNTRAINED = 1.3
"""Below this, rows of weights differ no more than draws from one distribution do: the weights were drawn.

Seen: 1.01 (weights drawn normally at Stable Diffusion's size, and by PyTorch's own initialisation), 1.9 (the
embedded model, whose networks are small; rows that are longer tell more).
"""


def with_reduction(model: Model, attention: str | None) -> Model:
    """The model with the self-attentions of its denoiser, and of the networks that steer it, reduced.

    ``attention`` is as :func:`edgediff.export.emit.reduce.parse` reads it; None changes nothing. The
    manifest's ``model.attention`` says what was done. A network that steers may lack a level, and so may a
    shallow form of the denoiser.

    Raises:
        InputError: it is not written so, or the denoiser has no self-attention there.
        UnsupportedError: the model has no denoiser.
    """
    if attention is None:
        return model
    reduction = parse(attention)
    if not any(part.role in _DENOISERS for part in model.parts):
        raise UnsupportedError(f"attention {attention}: the model has no denoiser whose attention to reduce.")
    parts = tuple(_reduced(part, reduction) for part in model.parts)
    told = [{"way": cut.way, "size": cut.size, "levels": list(cut.levels)} for cut in reduction.cuts]
    return replace(model, parts=parts, facts={**model.facts, "attention": told})


def _reduced(part: Part, reduction: Reduction) -> Part:
    if part.role in _DENOISERS:
        return replace(part, graph=reduced(part.graph, reduction))
    if not part.role.startswith(_WITH_THEM):
        return part
    known = levels_of(part.graph)
    cuts = [Cut(c.way, c.size, tuple(level for level in c.levels if level in known)) for c in reduction.cuts]
    return replace(part, graph=reduced(part.graph, Reduction(tuple(cut for cut in cuts if cut.levels))))


def row_spread(model: Model) -> float | None:
    """How much rows of the denoiser's weights differ in size, 1 being what independent draws would.

    The median, over up to 40 weights, of the spread of the rows' mean squares over that of means of as many
    independent numbers of the weight's own kurtosis. None where no weight is large enough to tell.
    """
    part = next(part for part in model.parts if part.role in _DENOISERS)
    found = [spread for weight in _weights(part) if (spread := _spread(weight)) is not None]
    return round(statistics.median(found), 3) if found else None


def _weights(part: Part) -> Iterator[np.ndarray[Any, Any]]:
    count = 0
    for parameter in part.graph.parameters:
        outputs = parameter.shape[0]
        large = outputs >= _LEAST_OUTPUTS and parameter.size // outputs >= _LEAST_INPUTS
        if parameter.role == "weight" and large and parameter.size <= _LARGEST and count < _WEIGHTS:
            count += 1
            rows = part.tensors.rows(part.names[parameter.name], 1 << 62)
            yield np.concatenate(list(rows)).reshape(outputs, -1).astype(np.float64)


def _spread(weight: np.ndarray[Any, Any]) -> float | None:
    squares = weight * weight
    power = float(squares.mean())
    kurtosis = float((squares * squares).mean()) / power**2 if power > 0 else 1.0
    if kurtosis <= 1.0:
        return None
    rows = squares.mean(axis=1)
    return float(rows.std(ddof=1) / power / np.sqrt((kurtosis - 1.0) / weight.shape[1]))


def loss_told(model: Model) -> dict[str, Any]:
    """What a receipt says of reduced attention beside its figures: what was done, and to what weights."""
    spread = row_spread(model)
    trained = spread is not None and spread >= UNTRAINED
    return {"attention": model.facts["attention"], "weights": {"row_spread": spread, "trained": trained}}


def doubt(spread: float | None) -> str | None:
    """What must be said of a loss that was measured on such weights; None where they look trained."""
    if spread is None:
        return "whether the weights are trained cannot be told, so the loss holds for these weights alone"
    if spread < UNTRAINED:
        return (
            f"the weights look untrained (rows differ {spread:.2f} times as much as random ones), so what "
            "reduced attention costs a trained model is unknown; the loss holds for these weights alone"
        )
    return None
