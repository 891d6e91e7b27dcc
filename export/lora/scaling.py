"""What alpha and rank make of an adapter's change: by a tensor beside it, or by what peft wrote down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from edgediff.errors import SourceError, UnsupportedError
from edgediff.export.json_files import parse_json, read_json

DIFFUSERS_KEY = "lora_adapter_metadata"
_PEFT_FILE = "adapter_config.json"
_KINDS = ("LORA", "LOHA", "LOKR")
# Ways to begin training that change the base weights too: the factors alone do not say the result.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a configuration says for modules without a tensor ``alpha``: nothing, unless peft wrote one.

    ``alphas`` and ``ranks`` are for single modules, by their name or the end of it.
    """

    alpha: float | None = None
    rank: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)
    rooted: bool = False

    def factor(self, module: str, rank: int | None) -> float:
        """What multiplies a module's change: alpha / rank, or alpha / sqrt(rank) (arXiv:2312.03732)."""
        alpha = _of(module, self.alphas, self.alpha)
        divisor = rank if rank is not None else _of(module, self.ranks, self.rank)
        if alpha is None or divisor is None:
            return 1.0
        return alpha / (sqrt(divisor) if self.rooted else divisor)


def scalings(path: Path, metadata: Mapping[str, str], peft_names: bool) -> Mapping[str, Scaling]:
    """The scaling of each component, from the file's metadata or, for ``peft_names``, from peft's own file.

    The key "" stands for components that are not listed. SourceError for damaged configurations,
    UnsupportedError for adapters whose factors alone do not say what they do.
    """
    if DIFFUSERS_KEY in metadata:
        where = f"{path}: {DIFFUSERS_KEY}"
        told = parse_json(metadata[DIFFUSERS_KEY].encode("utf-8", "replace"), where)
        parts: dict[str, dict[str, Any]] = {}
        for key, value in told.items():
            component, _, name = key.rpartition(".")
            parts.setdefault(component, {})[name] = value
        return {component: _scaling(part, f"{where}: {component}") for component, part in parts.items()}
    if not peft_names:
        return {}
    beside = path.parent / _PEFT_FILE
    if beside.is_file():
        return {"": _scaling(read_json(beside), str(beside))}
    numbers = {key: _parsed(metadata[key]) for key in ("lora_alpha", "r") if key in metadata}
    return {"": _scaling(numbers, str(path))} if numbers else {}


def _scaling(config: Mapping[str, Any], where: str) -> Scaling:
    kind, start = config.get("peft_type", "LORA"), config.get("init_lora_weights")
    if kind not in _KINDS:
        raise UnsupportedError(
            f"{where}: is an adapter of type {str(kind)[:40]}; {', '.join(_KINDS)} are read."
        )
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        raise UnsupportedError(
            f"{where}: was trained with init_lora_weights {start[:40]!r}, which changes the base model too. "
            "Convert it with peft: save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )
    alpha = config.get("lora_alpha", config.get("alpha"))
    return Scaling(
        alpha=None if alpha is None else _number(alpha, f"{where}: lora_alpha"),
        rank=None if config.get("r") is None else _number(config["r"], f"{where}: r"),
        alphas=_pattern(config, "alpha_pattern", where),
        ranks=_pattern(config, "rank_pattern", where),
        rooted=config.get("use_rslora") is True,
    )


def _pattern(config: Mapping[str, Any], name: str, where: str) -> dict[str, float]:
    held = config.get(name)
    if held is None:
        return {}
    if not isinstance(held, dict):
        raise SourceError(f"{where}: {name} is no object.")
    if odd := [key for key in held if not re.fullmatch(r"\^?[\w.-]+", key)]:
        raise UnsupportedError(
            f"{where}: {name} holds {odd[0][:80]!r}; names of modules are read, no regular expressions."
        )
    return {key.removeprefix("^"): _number(value, f"{where}: {name}") for key, value in held.items()}


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not (isfinite(value) and value > 0):
        raise SourceError(f"{where} is {str(value)[:40]}; expected a positive number.")
    return float(value)


def _parsed(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _of(module: str, pattern: Mapping[str, float], usual: float | None) -> float | None:
    """The first entry that is the module's name or the end of it after a dot, as peft looks it up."""
    return next((v for name, v in pattern.items() if f".{module}".endswith(f".{name}")), usual)
