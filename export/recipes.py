"""Few-step models and adapters: how each kind is meant to be drawn with, by its authors.

A recipe sets the scheduler's configuration and the manifest's defaults and limits, so that a bundle is right
without a flag. It is told (``--recipe``) or recognised from what the model itself says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgediff.errors import InputError


@dataclass(frozen=True, slots=True)
class Recipe:
    """One kind of few-step model.

    ``guidance`` is the default and the range in which the model behaves (1 and less mean none); ``steps``
    likewise. ``sampler`` and ``scheduler_class`` are None where the checkpoint's own scheduler is right.
    """

    name: str
    source: str
    steps: int
    fewest: int
    most: int
    guidance: float
    least_guidance: float
    most_guidance: float
    scheduler_class: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    timesteps: tuple[int, ...] | None = None
    outside: str = "warn"

    def scheduler(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The scheduler's configuration with what the recipe asks for."""
        changed = {**given, **self.settings}
        if self.scheduler_class is not None:
            changed["_class_name"] = self.scheduler_class
        return changed

    def defaults(self) -> dict[str, Any]:
        """The manifest's defaults and limits."""
        timesteps = {} if self.timesteps is None else {"timesteps": list(self.timesteps)}
        return {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            **timesteps,
            "recipe": self.name,
            "limits": {
                "guidance_scale": _limit(self.least_guidance, self.most_guidance, self.outside),
                "num_inference_steps": _limit(self.fewest, self.most, self.outside),
            },
        }


def _limit(low: float, high: float, outside: str) -> dict[str, Any]:
    return {"low": low, "high": high, "outside": outside}


_TRAILING = {"timestep_spacing": "trailing"}
_LCM, _EULER, _DDIM, _TCD = "LCMScheduler", "EulerDiscreteScheduler", "DDIMScheduler", "TCDScheduler"


def _recipes() -> dict[str, Recipe]:
    found = [
        Recipe(
            "lcm", "Luo et al. (2023), arXiv:2310.04378: guidance is an input, 2 to 14 in training",
            4, 1, 8, 8.5, 2, 14, _LCM,
        ),
        Recipe("lcm-lora", "Luo et al. (2023), arXiv:2311.05556", 4, 2, 8, 1.0, 0, 2, _LCM),
        Recipe("turbo", "Sauer et al. (2023), arXiv:2311.17042", 1, 1, 4, 0.0, 0, 1, None, _TRAILING),
        Recipe("tcd", "Zheng et al. (2024), arXiv:2402.19159", 4, 2, 50, 0.0, 0, 1, _TCD),
        Recipe("sdxs", "Song et al. (2024), arXiv:2403.16627: one step", 1, 1, 1, 0.0, 0, 1, None, _TRAILING),
        Recipe(
            "dmd2", "Yin et al. (2024), arXiv:2405.14867: four steps", 4, 4, 4, 0.0, 0, 1, _LCM,
            timesteps=(999, 749, 499, 249),
        ),
        Recipe(
            "dmd2-1", "Yin et al. (2024), arXiv:2405.14867: one step", 1, 1, 1, 0.0, 0, 1, _LCM,
            timesteps=(399,),
        ),
        Recipe("flash", "Chadebec et al. (2024), arXiv:2406.02347", 4, 2, 8, 0.0, 0, 1, _LCM, _TRAILING),
        Recipe(
            "lightning-1", "Lin et al. (2024), arXiv:2402.13929: one step, predicts the clean sample",
            1, 1, 1, 0.0, 0, 1, _EULER, {**_TRAILING, "prediction_type": "sample"},
        ),
        Recipe(
            "hyper-1", "Ren et al. (2024), arXiv:2404.13686: one step, from timestep 800",
            1, 1, 1, 0.0, 0, 1, _LCM, timesteps=(800,),
        ),
        Recipe(
            "hyper-unified", "Ren et al. (2024), arXiv:2404.13686: the one-step adapter, one to eight steps",
            1, 1, 8, 0.0, 0, 1, _TCD, {"eta": 1.0},
        ),
    ]  # fmt: skip
    for steps in (2, 4, 8):
        paper = "Lin et al. (2024), arXiv:2402.13929"
        found.append(Recipe(f"lightning-{steps}", paper, steps, steps, steps, 0.0, 0, 1, _EULER, _TRAILING))
        paper = "Ren et al. (2024), arXiv:2404.13686"
        found.append(Recipe(f"hyper-{steps}", paper, steps, steps, steps, 0.0, 0, 1, _DDIM, _TRAILING))
    for steps in (12, 16):
        paper = "Ren et al. (2024), arXiv:2404.13686: keeps guidance"
        found.append(Recipe(f"hyper-{steps}", paper, steps, steps, steps, 5.0, 1, 8, _DDIM, _TRAILING))
    return {recipe.name: recipe for recipe in found}


RECIPES = _recipes()
NONE = "none"


def named(name: str) -> Recipe | None:
    """The recipe of that name; None for ``none``.

    Raises:
        InputError: there is no such recipe.
    """
    if name == NONE:
        return None
    if name not in RECIPES:
        raise InputError(f"recipe {name!r} is unknown; known are {', '.join([*RECIPES, NONE])}.")
    return RECIPES[name]


_WORDS = (
    (r"hyper.?sd.*?\b1.?steps?-adapter", "hyper-unified"),
    (r"\blcm(?:,-\d+-steps?)?-adapter", "lcm-lora"),
    (r"hyper.?sd.*?\b(1|2|4|8|12|16).?step|hyper-(1|2|4|8|12|16)\b", "hyper-{}"),
    (r"lightning.*?\b(1|2|4|8).?step|lightning-(1|2|4|8)\b", "lightning-{}"),
    (r"\b(?:sd|sdxl)[-_]?turbo\b", "turbo"),
    (r"\bsdxs\b", "sdxs"),
    (r"\blcm[-_]lora\b", "lcm-lora"),
    (r"\btcd\b", "tcd"),
    (r"\bdmd2\b", "dmd2"),
    (r"\bflash-?(?:sd|sdxl|diffusion)\b|\bflash-adapter", "flash"),
)


def recognised(
    scheduler: Mapping[str, Any], guidance_embedded: bool, names: Iterable[str]
) -> tuple[Recipe, str] | None:
    """The recipe that a model asks for, and what it was recognised by; None for an ordinary model.

    ``names`` are what the model and its adapters call themselves: the hub's id, an adapter's own metadata.
    """
    kind = str(scheduler.get("_class_name", ""))
    if guidance_embedded:
        return RECIPES["lcm"], "the guidance that its network takes as an input"
    for name in names:
        for pattern, recipe in _WORDS:
            match = re.search(pattern, re.sub(r"[\s_]+", "-", name.lower()))
            if match is not None:
                number = next((group for group in match.groups() if group is not None), "")
                return RECIPES[recipe.format(number)], f"its name {name}"
    if kind == _LCM:
        return RECIPES["lcm-lora"], "its LCMScheduler"
    if kind == _TCD:
        return RECIPES["tcd"], "its TCDScheduler"
    return None
