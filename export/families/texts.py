"""Text encoders of the Stable Diffusion family: one or two CLIPs, whose states are joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgediff.errors import SourceError
from edgediff.export.checkpoint import clip_spellings
from edgediff.export.families.parts import Form, Part, parts_of
from edgediff.export.networks import clip_text
from edgediff.export.networks.clip_text import ClipText
from edgediff.export.sources import Source
from edgediff.export.tokenizer import largest_id, text_length, tokenizer_files

_PLAIN, _PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"


@dataclass(frozen=True, slots=True)
class Texts:
    """The text side of a model: graphs, tokenizers' files, and the manifest's entries.

    ``channels`` is the width of the joined states, ``pooled`` that of the vector beside them (0: none).
    """

    parts: tuple[Part, ...]
    files: Mapping[str, bytes]
    encoders: tuple[dict[str, Any], ...]
    channels: int
    pooled: int

    def facts(self, zero_negative: bool) -> dict[str, Any]:
        """The manifest's field; ``zero_negative`` is for models that read a pooled vector too."""
        first = self.encoders[0]
        found = {"length": first["length"], "tokenizer": first["tokenizer"]}
        if not self.pooled:
            return found
        return {**found, "encoders": list(self.encoders), "zero_negative": zero_negative}


def build(source: Source, names: tuple[str, ...], penultimate: bool) -> Texts:
    """Read the encoders ``names`` of a source.

    ``penultimate`` models read the states before the last layer, and the last encoder's projected vector (the
    SDXL family, Podell et al. 2023, section 2.1); others read the last states alone.
    """
    parts: list[Part] = []
    files: dict[str, bytes] = {}
    encoders: list[dict[str, Any]] = []
    channels = pooled = 0
    for name in names:
        component = source.component(name, (_PLAIN, _PROJECTED))
        projected = component.class_name == _PROJECTED
        net = clip_text.configure(component.config, str(component.where), projected)
        tokenizer = name.replace("text_encoder", "tokenizer")
        folder = source.tokenizer(tokenizer)
        found = tokenizer_files(folder)
        _check_ids(found["tokenizer.json"], net, str(folder), name)
        files |= {f"{tokenizer}/{file}": data for file, data in found.items()}
        length = text_length(folder, net.length)
        graph = clip_text.record(net, states=penultimate)
        trial = {"input_ids": (min(8, net.length),)}
        parts += parts_of(component, clip_spellings, [Form(name, name, graph, trial)])
        last = penultimate and name == names[-1]
        if last and net.projection is None:
            raise SourceError(f"{component.where}: has no projection; {_PROJECTED} is expected here.")
        channels += net.channels
        pooled = net.projection if last and net.projection is not None else 0
        encoders.append(
            {
                "role": name,
                "length": length,
                "tokenizer": f"{tokenizer}/tokenizer.json",
                "hidden": f"hidden_states.{net.layers - 1}" if penultimate else "last_hidden_state",
                "pooled": "text_embeds" if last else None,
            }
        )
    return Texts(tuple(parts), files, tuple(encoders), channels, pooled)


def _check_ids(tokenizer: bytes, net: ClipText, where: str, name: str) -> None:
    if (largest := largest_id(tokenizer)) >= net.entries:
        raise SourceError(
            f"{where}: it gives ids up to {largest}, {name} knows {net.entries}. They are of different "
            "models."
        )
