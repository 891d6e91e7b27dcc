"""Which files of a hub repository are wanted, by its list of names and its index, before any download."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from edgediff.errors import InputError, SourceError
from edgediff.manifest import MANIFEST

Kind = Literal["bundle", "onnx", "diffusers", "component", "single file", "other"]
Purpose = Literal["run", "export", "pull"]
INDEX = "model_index.json"
VARIANTS = ("", "fp16", "bf16")  # as the exporter prefers them: the fullest first

_STEMS = ("diffusion_pytorch_model", "model")
_TEXTS = (".json", ".txt", ".model")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# The exporter reads neither the filter, nor what prepares pictures for it, nor encoders of given pictures.
_UNUSED = frozenset(("safety_checker", "feature_extractor", "image_encoder"))
_GRAPH_FOLDERS = ("text_encoder", "text_encoder_2", "unet", "vae_decoder", "vae_encoder")
_GRAPH = "model.onnx"
_SETTINGS = ("tokenizer", "tokenizer_2", "scheduler")
_CARD = "README.md"  # its header names the licence


class Chosen(NamedTuple):
    """What a repository is, and the files that are wanted of it. ``last`` marks a download as whole."""

    kind: Kind
    files: tuple[str, ...]
    last: str


def kind_of(names: Collection[str], purpose: Purpose = "pull") -> Kind:
    """Return what the files ``names`` make up, for one who wants to run, to export or only to have it."""
    if MANIFEST in names:
        return "bundle"
    weights = any(name.endswith(".safetensors") for name in names if "/" in name)
    if INDEX in names:
        graphs = f"unet/{_GRAPH}" in names
        return "onnx" if graphs and (purpose == "run" or not weights) else "diffusers"
    singles = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    if "config.json" in names and _weights(names, "", None):
        return "component"
    return "single file" if len(singles) == 1 else "other"


def choose(
    repo: str, names: Collection[str], index: Mapping[str, Any], purpose: Purpose, variant: str | None = None
) -> Chosen:
    """Return what is wanted of a repository that is no bundle.

    Args:
        repo: its name, for messages.
        names: all its files.
        index: its ``model_index.json``, empty where it has none.
        purpose: running wants graphs, exporting wants weights.
        variant: such as ``fp16``; without it the fullest weights there are, and never two of one component.

    Raises:
        InputError: it holds nothing for that purpose.
        SourceError: its weights are pickled, or not there in that variant.
    """
    kind = kind_of(names, purpose)
    card = [_CARD] if _CARD in names else []
    if purpose == "run" and kind != "onnx":
        raise InputError(
            f"{repo}: this is no bundle but {_described(kind)}; make one with "
            f"`edgediff export onnx -m {repo} OUT`, then run OUT."
        )
    if purpose == "export" and kind == "onnx":
        raise SourceError(f"{repo}: holds ONNX graphs and no safetensors; they run as they are.")
    if kind == "diffusers":
        files = [name for name in names if "/" not in name and name.endswith(".json")] + card
        for part in _listed(index):
            files += _component(repo, names, part, variant)
        return Chosen(kind, _sorted(files), INDEX)
    if kind == "onnx":
        return Chosen(kind, _sorted([INDEX, *card, *_graphs(names)]), INDEX)
    if kind == "component":
        return Chosen(kind, _sorted([*_component(repo, names, "", variant), *card]), "config.json")
    if kind == "single file":
        (single,) = [name for name in names if "/" not in name and name.endswith(".safetensors")]
        return Chosen(kind, _sorted([single, *card]), single)
    found = ", ".join(sorted(names, key=_order)[:8]) or "nothing"
    raise InputError(
        f"{repo}: neither a bundle nor a model that edgediff knows ({MANIFEST}, {INDEX} or one .safetensors "
        f"file); it holds {found}. Of several files, fetch one with `hf download {repo} FILE` and name its "
        "path."
    )


def complete(names: Collection[str], index: Mapping[str, Any], kind: Kind, variant: str | None) -> bool:
    """Return whether ``names``, files on disk, hold all parts that the index lists.

    Other programs fill the hub's cache as well, part by part.
    """
    if kind == "component":
        return bool(_weights(names, "", variant))
    if kind == "single file":
        return True
    if kind == "onnx":
        return all(f"{part}/{_GRAPH}" in names for part in ("text_encoder", "unet", "vae_decoder"))
    for part in _listed(index):
        inside = [name for name in names if name.startswith(f"{part}/")]
        weightless = part.startswith(_SETTINGS)
        if not inside or (not weightless and not _weights(names, part, variant)):
            return False
        shards = [match for name in inside if (match := re.search(r"-(\d+)-of-(\d+)", name))]
        if shards and len({m[1] for m in shards}) != int(shards[0][2]):
            return False
    return kind == "diffusers"


def _listed(index: Mapping[str, Any]) -> list[str]:
    """The components that an index names and the exporter may read."""
    found = []
    for part, value in index.items():
        match value:
            case [str(), str()] if part not in _UNUSED and re.fullmatch(r"[A-Za-z0-9_]{1,64}", part):
                found.append(part)
    return found


def _component(repo: str, names: Collection[str], part: str, variant: str | None) -> list[str]:
    """The configuration and the weights of one folder (``part`` may be empty: the repository's root)."""
    inside = [name for name in names if name.rpartition("/")[0] == part]
    texts = [name for name in inside if name.endswith(_TEXTS) and ".safetensors.index" not in name]
    texts = [name for name in texts if ".index." not in name]  # those of pickled shards
    if part.startswith(_SETTINGS):
        return texts
    weights = _weights(names, part, variant)
    here = f"{repo}: {part}" if part else repo
    if not weights:
        others = [name for name in inside if name.endswith(".safetensors")]
        if others:
            raise SourceError(f"{here}: no {variant or 'full'} weights; it holds {', '.join(others[:4])}.")
        pickled = [name for name in inside if name.endswith(_PICKLES)]
        if pickled:
            raise SourceError(
                f"{here}: only pickled weights ({pickled[0]}), which can run code when they are opened and "
                "are refused; look for a repository or a revision with safetensors."
            )
    if not part:
        texts = [name for name in texts if name == "config.json"]
    return texts + weights


def _weights(names: Collection[str], part: str, variant: str | None) -> list[str]:
    """The safetensors of one component in one variant: a file, or an index and its shards."""
    prefix = f"{part}/" if part else ""
    for infix in VARIANTS if variant is None else (variant,):
        dot = f".{infix}" if infix else ""
        for stem in _STEMS:
            if f"{prefix}{stem}{dot}.safetensors" in names:
                return [f"{prefix}{stem}{dot}.safetensors"]
            for index in (f"{stem}.safetensors.index{dot}.json", f"{stem}{dot}.safetensors.index.json"):
                if prefix + index in names:
                    number, dotted = r"-\d+-of-\d+", re.escape(dot)
                    shard = rf"{re.escape(prefix + stem)}({dotted}{number}|{number}{dotted})\.safetensors"
                    return [prefix + index, *(name for name in names if re.fullmatch(shard, name))]
    return []


def _graphs(names: Collection[str]) -> list[str]:
    """What an Optimum folder needs: each ``model.onnx``, what may be its weights, and the settings."""
    found = []
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder in _SETTINGS and file.endswith(_TEXTS):
            found.append(name)
        if folder in _GRAPH_FOLDERS and f"{folder}/{_GRAPH}" in names:
            other_graph = ".onnx" in file and not file.startswith(_GRAPH)
            foreign = file.endswith((".safetensors", ".msgpack", ".h5", ".xml", *_PICKLES))
            if file == "config.json" or not (other_graph or foreign or file.endswith(_TEXTS)):
                found.append(name)
    return found


def _described(kind: Kind) -> str:
    kinds = {
        "diffusers": "a diffusers model",
        "component": "one network of a model",
        "single file": "a checkpoint in one file",
    }
    return kinds.get(kind, "something that edgediff does not know")


def _order(name: str) -> tuple[int, str]:
    return len(PurePosixPath(name).parts), name


def _sorted(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))
