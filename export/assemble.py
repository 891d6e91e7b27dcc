"""From what a caller named to one source and one recipe: the model, its replaced parts, adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from edgediff import hub
from edgediff.errors import InputError
from edgediff.export.lora.file import read_adapter
from edgediff.export.lora.hint import recipe_hint
from edgediff.export.lora.source import AdaptedSource, parse_lora
from edgediff.export.recipes import Recipe, named, recognised
from edgediff.export.replaced import Replaced
from edgediff.export.sources import Component, Source, open_source


class Choices(TypedDict, total=False):
    """The fields of :class:`Asked` but the model, as keyword arguments."""

    variant: str | None
    revision: str | None
    token: str | None
    parts: Mapping[str, str] | None
    controlnets: Sequence[str]
    tiny_decoder: str | None
    tokenizer: str | None
    loras: Sequence[str]
    recipe: str | None
    prediction_type: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What to export: a model, and what is put in the place of its parts. All are paths, or a hub's id.

    ``parts`` maps ``vae``, ``unet``, ``text_encoder`` or ``text_encoder_2`` to a folder or file; ``loras``
    are ``FILE`` or ``FILE:scale``; ``tiny_decoder`` is an AutoencoderTiny, whose decoder the bundle has
    beside the model's own; ``recipe`` names a few-step recipe, ``none`` forbids one.
    """

    model: str
    variant: str | None = None
    revision: str | None = None
    token: str | None = None
    parts: Mapping[str, str] | None = None
    controlnets: Sequence[str] = ()
    tiny_decoder: str | None = None
    tokenizer: str | None = None
    loras: Sequence[str] = ()
    recipe: str | None = None
    prediction_type: str | None = None


@dataclass(frozen=True, slots=True)
class Assembled:
    """A source that has everything in it, its recipe, and what the caller should know."""

    source: Source
    recipe: Recipe | None
    notes: tuple[str, ...]


def assemble(asked: Asked, report: Callable[[str], None] | None = None) -> Assembled:
    """Open everything that was named.

    Raises:
        InputError, SourceError, UnsupportedError: something cannot be read; no weights have been.
    """
    if asked.tokenizer is not None and not Path(asked.tokenizer).is_dir():
        raise InputError(f"{asked.tokenizer}: no such folder; --tokenizer takes one with vocab.json in it.")
    adapters = [read_adapter(*parse_lora(each)) for each in asked.loras]
    source = open_source(
        asked.model, asked.variant, revision=asked.revision, token=asked.token,
        prediction_type=asked.prediction_type, tokenizer=asked.tokenizer, report=report,
    )  # fmt: skip
    parts, controls, tiny = _parts(asked, source, report)
    notes, applied = list(source.notes), source.recipe
    # A single file has no tokenizer of its own: it was opened with this one, and knows how each is padded.
    words = None if asked.tokenizer is None or source.where.is_file() else Path(asked.tokenizer)
    if parts or controls or tiny is not None or words is not None:
        source = Replaced.of(source, parts, controls, words, tiny)
    chosen = applied if asked.recipe is None else asked.recipe
    recipe = None if chosen is None else named(chosen)
    if chosen is None:
        hints = [f"{hint} adapter" for hint in map(recipe_hint, adapters) if hint is not None]
        told = recognised(source.scheduler(), _embeds_guidance(source), [*_names(source), *hints])
        if told is not None:
            recipe, reason = told
            notes.append(f"drawn as {recipe.name} models are, by {reason}; --recipe says otherwise")
    if adapters:
        source = AdaptedSource(source, adapters)
    return Assembled(source, recipe, tuple(notes))


def _parts(
    asked: Asked, source: Source, report: Callable[[str], None] | None
) -> tuple[dict[str, Component], list[Component], Component | None]:
    if not asked.parts and not asked.controlnets and asked.tiny_decoder is None:
        return {}, [], None
    from edgediff.export.single_file import open_part

    def local(path: str) -> str:
        if not hub.is_hub_id(path):
            return path
        return str(hub.fetch(path, "export", token=asked.token, say=report).path)

    parts = {name: open_part(local(path), name, source) for name, path in (asked.parts or {}).items()}
    controls = [open_part(local(path), "controlnet", source) for path in asked.controlnets]
    tiny = None if asked.tiny_decoder is None else open_part(local(asked.tiny_decoder), "vae", source)
    return parts, controls, tiny


def _names(source: Source) -> Iterator[str]:
    yield source.label


def _embeds_guidance(source: Source) -> bool:
    unet = source.component("unet", ("UNet2DConditionModel",)) if source.class_of("unet") else None
    return unet is not None and unet.config.get("time_cond_proj_dim") is not None
