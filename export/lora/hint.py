"""What an adapter says about itself: that it makes a model of few steps, and of how many."""

from __future__ import annotations

import re

from edgediff.export.lora.file import Adapter

# Names of published distillations, as their files and metadata spell them.
_KINDS = {
    "Hyper-SD": r"hyper[-_ ]?(sd(xl)?|flux)",
    "Lightning": r"sdxl[-_ ]?lightning|lightning(?=.*[-_ ]\d{1,2}[-_ ]?step)",
    "LCM": r"lcm|latent[-_ ]consistency",
    "TCD": r"tcd|trajectory[-_ ]consistency",
    "DMD2": r"dmd2",
    "PCM": r"pcm",
    "Turbo": r"sd[-_ ]?(xl)?[-_ ]?turbo",
    "Flash": r"flash[-_ ]?(sd(xl)?|diffusion)",
}
_TITLES = ("modelspec.title", "ss_output_name", "title", "name")
# Such files are named alike in every repository, so the folder's name is what tells them apart.
_NAMELESS = ("pytorch_lora_weights", "adapter_model", "model")


def recipe_hint(adapter: Adapter) -> str | None:
    """Say which distillation the metadata's title or the file's name tells of, such as "Lightning, 4 steps".

    None where neither says so. It is what a name says, and no more certain than that.
    """
    stem = adapter.path.stem
    folder = adapter.path.absolute().parent.name if stem.lower() in _NAMELESS else ""
    for text in (*(adapter.metadata.get(key, "") for key in _TITLES), stem, folder):
        kind = next((k for k, pattern in _KINDS.items() if _holds(text, pattern)), None)
        if kind is not None:
            count = re.search(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])", text, re.IGNORECASE)
            return kind if count is None else f"{kind}, {int(count[1])} step{'s' * (count[1] != '1')}"
    return None


def _holds(text: str, pattern: str) -> bool:
    return re.search(rf"(?<![a-z])({pattern})(?![a-z])", text[:500], re.IGNORECASE) is not None
