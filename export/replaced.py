"""A model with parts taken from elsewhere: another autoencoder, a fine-tuned U-Net, ControlNets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgediff.errors import UnsupportedError
from edgediff.export.sources import TINY, Component, Source

REPLACEABLE = ("text_encoder", "text_encoder_2", "unet", "vae")
_LIBRARIES = {"CLIPTextModel": "transformers", "CLIPTextModelWithProjection": "transformers"}


@dataclass(frozen=True)
class Replaced(Source):
    """``base`` with ``parts`` in place of its own, ``controls`` and a tiny decoder beside its own, and other
    tokenizers."""

    base: Source = field(kw_only=True)
    parts: Mapping[str, Component] = field(default_factory=dict)
    controls: tuple[Component, ...] = ()
    tokenizers: Path | None = None
    tiny: Component | None = None

    @staticmethod
    def of(
        base: Source,
        parts: Mapping[str, Component],
        controls: Sequence[Component] = (),
        tokenizers: Path | None = None,
        tiny: Component | None = None,
    ) -> Replaced:
        """Put parts into a source; its index then names their classes."""
        classes = {n: [_LIBRARIES.get(c.class_name, "diffusers"), c.class_name] for n, c in parts.items()}
        return Replaced(
            base.where, {**base.index, **classes}, base.revision, base.name,
            base=base, parts=parts, controls=tuple(controls), tokenizers=tokenizers, tiny=tiny,
        )  # fmt: skip

    @property
    def license(self) -> str | None:
        return self.base.license

    def component(self, name: str, classes: tuple[str, ...]) -> Component:
        """As in ``Source``."""
        part = self.parts.get(name)
        if part is None:
            return self.base.component(name, classes)
        if part.class_name not in classes:
            raise UnsupportedError(f"{part.where}: is {part.class_name}; expected {' or '.join(classes)}.")
        return part

    def components(self, name: str, classes: tuple[str, ...]) -> list[Component]:
        """As in ``Source``."""
        if name == TINY and self.tiny is not None:
            return [self.tiny]
        added = [each for each in self.controls if name == "controlnet"]
        return [*self.base.components(name, classes), *added]

    def scheduler(self) -> dict[str, Any]:
        return self.base.scheduler()

    def tokenizer(self, name: str = "tokenizer") -> Path:
        if self.tokenizers is None:
            return self.base.tokenizer(name)
        own = self.tokenizers / name
        return own if own.is_dir() else self.tokenizers

    def extra(self, name: str) -> dict[str, Any] | None:
        return self.base.extra(name)
