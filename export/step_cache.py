"""A model whose denoiser has a shallow form beside it, for steps between whole passes."""

from __future__ import annotations

from dataclasses import replace

from edgediff.errors import UnsupportedError
from edgediff.export.emit.deep_cache import deep_cache
from edgediff.export.families.parts import Model, Part
from edgediff.step_cache import FEATURES, ROLE


def with_shallow(model: Model, asked: bool = True) -> Model:
    """The model with a part ``shallow_denoiser``, which has its few weights in a folder of its own.

    Raises:
        UnsupportedError: the model has no denoiser, or one without skip connections.
    """
    if not asked:
        return model
    parts: list[Part] = []
    for part in model.parts:
        if part.role != "denoiser":
            parts.append(part)
            continue
        whole, shallow = deep_cache(part.graph)
        named = {port.name for port in shallow.inputs}
        trial = {**part.trial, FEATURES: part.trial["sample"]}
        trial = {name: extents for name, extents in trial.items() if name in named}
        parts += [
            replace(part, graph=whole),
            replace(part, role=ROLE, folder=ROLE, graph=shallow, trial=trial),
        ]
    if len(parts) == len(model.parts):
        raise UnsupportedError("the model has no denoiser; leave --step-cache out.")
    return replace(model, parts=tuple(parts))
