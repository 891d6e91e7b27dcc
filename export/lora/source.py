"""Adapters (LoRA and its kin) that are added to a checkpoint while it is exported.

``AdaptedSource(open_source(model), [read_adapter(*parse_lora("style.safetensors:0.8"))])`` is a source like
any other; families see no difference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from edgediff.errors import InputError, SourceError
from edgediff.export.lora.file import Adapter, listed
from edgediff.export.lora.match import steps
from edgediff.export.lora.tensors import AdaptedTensors
from edgediff.export.sources import Component, Source

_AT_MOST = 8
_SCALE_LIMIT = 100.0


def parse_lora(text: str) -> tuple[Path, float]:
    """Read ``FILE`` or ``FILE:SCALE``; the scale is 1 unless it is given.

    Only a number behind the last colon is a scale, and a single letter before it is a drive: a file whose
    name ends with a colon and a number needs its scale spelt out (``a:2:1``). InputError says what is wrong.
    """
    path, colon, tail = text.rpartition(":")
    number = re.fullmatch(
        r"[+-]?(\d{1,9}(\.\d{0,9})?|\.\d{1,9})(e[+-]?\d{1,2})?", tail.strip(), re.IGNORECASE
    )
    if colon and path.lower().endswith(".safetensors") and number is None:
        raise InputError(f"--lora {text}: the scale {tail!r} is no number. Write FILE:0.8, or FILE alone.")
    if not colon or number is None or re.fullmatch("[A-Za-z]?", path):
        path, scale = text, 1.0
    else:
        scale = float(tail)
    if not path:
        raise InputError(f"--lora {text!r}: names no file. Write FILE:0.8, or FILE alone.")
    return Path(path), check_scale(scale, f"--lora {text}")


def check_scale(scale: float, where: str) -> float:
    """A strength that an adapter can have, from -100 to 100; InputError, which begins with ``where``."""
    if not (isfinite(scale) and abs(scale) <= _SCALE_LIMIT):
        raise InputError(f"{where}: a scale of {scale}; it is from -{_SCALE_LIMIT:g} to {_SCALE_LIMIT:g}.")
    return scale


class AdaptedSource(Source):
    """A source whose components come with adapters added, in the order given.

    Parts of an adapter for a component that the model lacks are refused at once, parts that match no module
    when the component is read; ``finish`` does so for components that nobody asked for.
    """

    def __init__(self, source: Source, adapters: Sequence[Adapter]) -> None:
        """InputError for more than 8 adapters, one file twice, or a scale out of range."""
        super().__init__(source.where, source.index, source.revision, source.name)
        _check(adapters)
        for name, value in (("_source", source), ("_adapters", tuple(adapters)), ("_read", set[str]())):
            object.__setattr__(self, name, value)
        absent = {name for name in self._named() if source.class_of(name) is None}
        self._refuse(absent, "the model has none")

    _source: Source
    _adapters: tuple[Adapter, ...]
    _read: set[str]

    @property
    def license(self) -> str | None:
        """The licence of the model itself; adapters have their own."""
        return self._source.license

    def components(self, name: str, classes: tuple[str, ...]) -> list[Component]:
        """As in ``Source``; adapters are for components that a model has one of."""
        if name in self._named():
            return [self.component(name, classes)]
        return self._source.components(name, classes)

    def scheduler(self) -> dict[str, Any]:
        """The scheduler's configuration of the model itself."""
        return self._source.scheduler()

    def tokenizer(self, name: str = "tokenizer") -> Path:
        """The folder of a tokenizer's files."""
        return self._source.tokenizer(name)

    def extra(self, name: str) -> dict[str, Any] | None:
        """A JSON file of ours that may lie beside the index."""
        return self._source.extra(name)

    def origin(self) -> dict[str, Any]:
        """The model's origin, with the adapters' names and strengths."""
        added = [{"name": each.path.name, "scale": each.scale} for each in self._adapters]
        return {**self._source.origin(), "adapters": added}

    def finish(self) -> None:
        """Check that every component for which an adapter has parts was read; SourceError lists the rest."""
        self._refuse(self._named() - self._read, "the exported model has none")

    def _component(self, name: str, class_name: str) -> Component:
        component = self._source.component(name, (class_name,))
        self._read.add(name)
        for adapter in self._adapters:
            found = steps(adapter, component)
            if found:
                adapted = AdaptedTensors(component.tensors, found, adapter.path)
                component = replace(component, tensors=adapted)
        return component

    def _named(self) -> set[str]:
        return {change.component for adapter in self._adapters for change in adapter.changes}

    def _refuse(self, components: set[str], why: str) -> None:
        for adapter in self._adapters:
            changes = [change for change in adapter.changes if change.component in components]
            if changes:
                keys = [key for change in changes for key in change.keys]
                raise SourceError(
                    f"{adapter.path}: {len(keys)} of its tensors are for {changes[0].component}, but {why} "
                    f"({self.where}): {listed(keys)}."
                )


def _check(adapters: Sequence[Adapter]) -> None:
    if len(adapters) > _AT_MOST:
        raise InputError(f"{len(adapters)} adapters; at most {_AT_MOST} are added to a model.")
    for i, adapter in enumerate(adapters):
        check_scale(adapter.scale, str(adapter.path))
        if any(adapter.path.samefile(other.path) for other in adapters[:i]):
            raise InputError(f"{adapter.path}: given twice. Add the scales up and give it once.")
