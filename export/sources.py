"""Reads a model folder as diffusers writes it. Nothing is ever unpickled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgediff.errors import InputError, SourceError, UnsupportedError
from edgediff.export.json_files import read_json
from edgediff.export.tensors import Tensors

_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_STEMS = ("diffusion_pytorch_model", "model")


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a model: its folder, its class as the index names it, its configuration, its tensors."""

    name: str
    class_name: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Tensors


@dataclass(frozen=True, slots=True)
class Source:
    """A model folder whose index has been read."""

    folder: Path
    index: Mapping[str, Any]

    @property
    def pipeline(self) -> str:
        """The pipeline's class name."""
        return str(self.index.get("_class_name", ""))

    @property
    def label(self) -> str:
        """How the manifest names the origin: the hub's name if the index has it, else the folder's."""
        name = self.index.get("_name_or_path")
        if isinstance(name, str) and re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name):
            return name
        return self.folder.absolute().name

    @property
    def license(self) -> str | None:
        """The licence that the model card's header names."""
        card = self.folder / "README.md"
        if not card.is_file():
            return None
        with card.open("rb") as file:
            head = file.read(8192).decode("utf-8", "replace")
        match = re.match(
            r"---\r?\n.*?^license:[ \t]*([\w.+-]{1,100})[ \t]*\r?$", head, re.DOTALL | re.MULTILINE
        )
        return match[1] if match else None

    def class_of(self, name: str) -> str | None:
        """The class that the index names for a component; None if it has none."""
        match self.index.get(name):
            case [_, str(found)]:
                return found
        return None

    def part(self, name: str) -> Path:
        """The folder of a component that must be there."""
        folder = self.folder / name
        if not folder.is_dir():
            raise SourceError(f"{self.folder}: the folder {name} is missing. The model is incomplete.")
        return folder

    def component(self, name: str, classes: tuple[str, ...]) -> Component:
        """A component with weights, of one of the given classes."""
        found = self.class_of(name)
        if found is None:
            raise SourceError(
                f"{self.folder / 'model_index.json'}: names no {name}; expected {_either(classes)}."
            )
        if found not in classes:
            raise UnsupportedError(
                f"{self.folder}: {name} is {found}; this exporter covers {_either(classes)}."
            )
        folder = self.part(name)
        config = read_json(folder / "config.json")
        return Component(name, found, folder, config, Tensors(weight_files(folder)))


def open_source(path: str) -> Source:
    """A local model folder."""
    folder = Path(path)
    if folder.is_file():
        if folder.suffix.lower() in _PICKLES:
            raise SourceError(_pickled(folder))
        raise UnsupportedError(
            f"{path} is a file. Give a model folder as diffusers' save_pretrained writes it."
        )
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder. Give a local model folder (with model_index.json).")
    if not (folder / "model_index.json").is_file():
        raise SourceError(f"{path}: holds no model_index.json. Give the folder that does.")
    return Source(folder, read_json(folder / "model_index.json"))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a component, one or several shards; full precision before the fp16 variant."""
    for variant in ("", ".fp16"):
        for stem in _STEMS:
            single = folder / f"{stem}{variant}.safetensors"
            if single.is_file():
                return [single]
            for name in (
                f"{stem}.safetensors.index{variant}.json",
                f"{stem}{variant}.safetensors.index.json",
            ):
                if (folder / name).is_file():
                    return _shards(folder / name)
    pickles = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in _PICKLES]
    if pickles:
        raise SourceError(_pickled(pickles[0]))
    raise SourceError(f"{folder}: holds no weights ({_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors).")


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise SourceError(f"{index}: has no weight_map.")
    files = []
    for name in sorted({str(value) for value in names.values()}):
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise SourceError(
                f"{index}: names the shard {name[:100]!r}; expected a plain .safetensors file name."
            )
        if not (index.parent / name).is_file():
            raise SourceError(f"{index.parent / name}: this shard is missing. Download the model again.")
        files.append(index.parent / name)
    return files


def _pickled(path: Path) -> str:
    return (
        f"{path}: a pickled checkpoint can run code when it is opened and is refused. "
        "Convert it to safetensors (diffusers: save_pretrained(..., safe_serialization=True))."
    )


def _either(classes: tuple[str, ...]) -> str:
    return " or ".join(classes)
