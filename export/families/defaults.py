"""What a bundle does when the caller says nothing, by the scheduler's class or the checkpoint's own file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from edgediff import sampler as samplers
from edgediff.errors import SourceError, UnsupportedError
from edgediff.export.networks.unet2d_condition import UNet2DCondition
from edgediff.export.recipes import Recipe
from edgediff.export.sources import Source

# An optional file of a model folder: {"defaults": {"num_inference_steps": 4, ...}}.
OVERRIDES = "edgediff_defaults.json"
_KNOWN = ("sampler", "num_inference_steps", "guidance_scale", "size")


def defaults(
    source: Source,
    scheduler: Mapping[str, Any],
    unet: UNet2DCondition,
    config: Mapping[str, Any],
    downscale: int,
    recipe: Recipe | None,
) -> dict[str, Any]:
    """Sampler, steps, guidance and size; a recipe's word goes before the model's kind."""
    sampler = sampler_name(str(scheduler.get("_class_name", "")))
    if sampler == "":
        raise SourceError(f"{source.where}: its scheduler_config.json names no _class_name.")
    found = {
        "sampler": sampler,
        "num_inference_steps": 20,
        "guidance_scale": 7.5 if unet.added is None else 5.0,
        "size": _size(config.get("sample_size"), downscale),
    }
    return {**found, **({} if recipe is None else recipe.defaults()), **_overrides(source)}


def sampler_name(class_name: str) -> str:
    """The sampler for a scheduler class of diffusers; one that has none here gives its name in small letters.

    Such a bundle is whole, and runs once a sampler is named.
    """
    try:
        return samplers.name_of(class_name)
    except UnsupportedError:
        words = re.sub(
            r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name.removesuffix("Scheduler")
        )
        return words.lower()


def _size(sample_size: Any, downscale: int) -> dict[str, int]:
    pair = (
        sample_size if isinstance(sample_size, list | tuple) and len(sample_size) == 2 else [sample_size] * 2
    )
    sides = [side if isinstance(side, int) and 0 < side <= 4096 else 64 for side in pair]
    return {"height": sides[0] * downscale, "width": sides[1] * downscale}


def _overrides(source: Source) -> dict[str, Any]:
    path, told = source.where / OVERRIDES, source.extra(OVERRIDES)
    if told is None:
        return {}
    given = told.get("defaults")
    if not isinstance(given, dict) or set(given) - set(_KNOWN):
        raise SourceError(f"{path}: expected an object 'defaults' with some of {', '.join(_KNOWN)}.")
    sound: dict[str, Callable[[Any], bool]] = {
        "sampler": lambda v: isinstance(v, str) and 0 < len(v) <= 64,
        "num_inference_steps": lambda v: type(v) is int and 1 <= v <= 1000,
        "guidance_scale": lambda v: type(v) in (int, float) and 0 <= v <= 100,
        "size": lambda v: isinstance(v, dict) and all(type(n) is int and 0 < n <= 65536 for n in v.values()),
    }
    for key, value in given.items():
        if not sound[key](value):
            raise SourceError(f"{path}: {key} is {str(value)[:80]}, which is out of range.")
    return given
