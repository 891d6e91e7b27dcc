"""Matches the parameters that the networks declare with the tensors that a checkpoint holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from edgediff.errors import SourceError
from edgediff.export.emit.graph import Parameter
from edgediff.export.tensors import Tensors

# Buffers that older versions saved beside the weights; they hold 0, 1, 2, ...
_BENIGN = ("text_model.embeddings.position_ids", "embeddings.position_ids")
_LISTED = 8

Spellings = Callable[[str], Iterator[str]]


def match(
    parameters: Iterable[Parameter], tensors: Tensors, spellings: Spellings, where: Path
) -> Mapping[str, str]:
    """The tensor's name for each parameter's. Missing, superfluous and misshapen ones are refused."""
    names: dict[str, str] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    for parameter in parameters:
        name = next((n for n in spellings(parameter.name) if n in tensors.entries), None)
        if name is None:
            missing.append(parameter.name)
            continue
        names[parameter.name] = name
        found = tensors.entries[name].shape
        if _essential(found) != _essential(parameter.shape):
            misshapen.append(f"{name} is {found}, expected {parameter.shape}")
    used = set(names.values())
    superfluous = sorted(n for n in tensors.entries if n not in used and n not in _BENIGN)
    for fault, listed in (("misses", missing), ("does not fit", misshapen), ("does not know", superfluous)):
        if listed:
            more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
            verb = (
                "the configuration does not know" if fault == "does not know" else f"the checkpoint {fault}"
            )
            raise SourceError(f"{where}: {verb} {len(listed)} tensors: {', '.join(listed[:_LISTED])}{more}.")
    return names


def clip_spellings(name: str) -> Iterator[str]:
    """Classic checkpoints begin with ``text_model.``; transformers 5 saves CLIPTextModel without it."""
    yield name
    yield name.removeprefix("text_model.")


def autoencoder_spellings(name: str) -> Iterator[str]:
    """Attention used to be called query, key, value and proj_attn."""
    yield name
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    yield re.sub(r"\b(to_[qkv]|to_out\.0)\.(?=weight$|bias$)", lambda found: f"{old[found[1]]}.", name)


def plain_spellings(name: str) -> Iterator[str]:
    """The parameter's own name."""
    yield name


def _essential(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones: a 1x1 convolution and a linear layer hold the same numbers."""
    kept = len(shape)
    while kept and shape[kept - 1] == 1:
        kept -= 1
    return shape[:kept]
