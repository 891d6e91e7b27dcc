"""Reads a model folder as diffusers writes it. Nothing is ever unpickled."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgediff import hub
from edgediff.errors import InputError, SourceError, UnsupportedError
from edgediff.export.json_files import read_json
from edgediff.export.tensors import TensorFiles, Tensors

EMBEDDED = "embedded"
"""What names the model that comes with the library, where no such path exists."""
TINY = "tiny_decoder"
"""The component that no model folder has: a tiny autoencoder, whose decoder stands beside the model's own."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_SEVERAL = "MultiControlNetModel"
_STEMS = ("diffusion_pytorch_model", "model")


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a model: its class as the index names it, its configuration, its tensors.

    ``where`` is the folder or file that messages about it name.
    """

    name: str
    class_name: str
    where: Path
    config: Mapping[str, Any]
    tensors: Tensors


@dataclass(frozen=True)
class Source:
    """A model that can be read part by part, wherever it lies. Families see nothing else.

    ``where`` is the folder or file that messages name; ``index`` is a ``model_index.json``, or what it would
    say. Subclasses know how parts are found.
    """

    where: Path
    index: Mapping[str, Any]
    revision: str | None = None
    name: str | None = None

    @property
    def pipeline(self) -> str:
        """The pipeline's class name."""
        return str(self.index.get("_class_name", ""))

    @property
    def label(self) -> str:
        """How the manifest names the origin: the hub's name if it is known, else the file's or folder's."""
        for name in (self.name, self.index.get("_name_or_path")):
            if isinstance(name, str) and re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name):
                return name
        return self.where.absolute().name

    @property
    def license(self) -> str | None:
        """The licence that the model states; None where it states none."""
        return None

    def class_of(self, name: str) -> str | None:
        """The class that the index names for a component; None if it has none."""
        match self.index.get(name):
            case [_, str(found)]:
                return found
        return None

    def component(self, name: str, classes: tuple[str, ...]) -> Component:
        """A component with weights, of one of the given classes."""
        found = self.class_of(name)
        if found is None:
            raise SourceError(f"{self.where}: names no {name}; expected {_either(classes)}.")
        if found not in classes:
            raise UnsupportedError(
                f"{self.where}: {name} is {found}; this exporter covers {_either(classes)}."
            )
        return self._component(name, found)

    def components(self, name: str, classes: tuple[str, ...]) -> list[Component]:
        """All components of a kind that a model may have none, one or several of."""
        return [] if self.class_of(name) is None else [self.component(name, classes)]

    def _component(self, name: str, class_name: str) -> Component:
        raise NotImplementedError

    def scheduler(self) -> dict[str, Any]:
        """The scheduler's configuration, as it was saved."""
        raise NotImplementedError

    def tokenizer(self, name: str = "tokenizer") -> Path:
        """The folder of a tokenizer's files."""
        raise NotImplementedError

    @property
    def recipe(self) -> str | None:
        """The few-step recipe that was applied to it already; None where nothing says so."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever exports the model should know about how it was read."""
        return ()

    def extra(self, name: str) -> dict[str, Any] | None:
        """A JSON file of ours that may lie beside the index."""
        return None

    def origin(self) -> dict[str, Any]:
        """What the manifest says of where the weights come from."""
        return {"source": self.label, "revision": self.revision, "license": self.license}

    def finish(self) -> None:
        """Refuse what was named and not used; called when every component has been read."""


@dataclass(frozen=True)
class FolderSource(Source):
    """A folder as diffusers' ``save_pretrained`` writes it; ``variant`` picks files such as ``fp16``."""

    variant: str | None = None

    @property
    def license(self) -> str | None:
        """The licence that the model card's header names."""
        card = self.where / "README.md"
        if not card.is_file():
            return None
        with card.open("rb") as file:
            head = file.read(8192).decode("utf-8", "replace")
        match = re.match(
            r"---\r?\n.*?^license:[ \t]*([\w.+-]{1,100})[ \t]*\r?$", head, re.DOTALL | re.MULTILINE
        )
        return match[1] if match else None

    def components(self, name: str, classes: tuple[str, ...]) -> list[Component]:
        """As in ``Source``; several ControlNets are saved as controlnet, controlnet_1, ..."""
        if self.class_of(name) != _SEVERAL:
            return super().components(name, classes)
        folders = [self._part(name), *sorted(self.where.glob(f"{name}_[0-9]*"))]
        return [self._read(folder.name, classes[0], folder) for folder in folders]

    def _component(self, name: str, class_name: str) -> Component:
        return self._read(name, class_name, self._part(name))

    def _read(self, name: str, class_name: str, folder: Path) -> Component:
        config = read_json(folder / "config.json")
        return Component(name, class_name, folder, config, TensorFiles(weight_files(folder, self.variant)))

    def scheduler(self) -> dict[str, Any]:
        return read_json(self._part("scheduler") / "scheduler_config.json", unbounded=True)

    def tokenizer(self, name: str = "tokenizer") -> Path:
        return self._part(name)

    def extra(self, name: str) -> dict[str, Any] | None:
        path = self.where / name
        return read_json(path) if path.is_file() else None

    def _part(self, name: str) -> Path:
        folder = self.where / name
        if not folder.is_dir():
            raise SourceError(f"{self.where}: the folder {name} is missing. The model is incomplete.")
        return folder


def open_source(
    path: str,
    variant: str | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    prediction_type: str | None = None,
    tokenizer: str | None = None,
    report: Callable[[str], None] | None = None,
) -> Source:
    """A local model: a folder with ``model_index.json``, or a single file in the original layout.

    What is no path but names a model on the hub (``org/name``, ``org/name@revision``) is fetched first;
    ``revision`` and ``token`` are for that, and ``report`` gets a line on what is downloaded.
    ``prediction_type`` and ``tokenizer`` (a folder) say of a single file what its tensors cannot.
    """
    if hub.is_hub_id(path):
        found = hub.fetch(path, "export", revision=revision, variant=variant, token=token, say=report)
        local = open_source(str(found.path), variant, prediction_type=prediction_type, tokenizer=tokenizer)
        return replace(local, name=found.repo, revision=found.commit)
    if revision is not None:
        raise InputError(f"{path}: has no revision {revision!r}; revisions are for models on the hub.")
    folder = Path(path)
    if path == EMBEDDED and not folder.exists():
        from edgediff import pipeline

        folder = pipeline.EMBEDDED
    if folder.is_file():
        if folder.suffix.lower() in PICKLES:
            raise SourceError(pickled(folder))
        from edgediff.export.single_file import open_single_file  # it needs Source

        return open_single_file(folder, prediction_type=prediction_type, tokenizer=tokenizer)
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder. Give a local model folder (with model_index.json).")
    if not (folder / "model_index.json").is_file():
        raise SourceError(f"{path}: holds no model_index.json. Give the folder that does.")
    from edgediff.export.bundle_source import is_bundle, open_bundle  # it needs Source

    if is_bundle(folder):
        return open_bundle(folder)
    return FolderSource(folder, read_json(folder / "model_index.json"), variant=variant)


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files of a component, one or several shards: the variant asked for, or the fullest."""
    for infix in ("", ".fp16", ".bf16") if variant is None else (f".{variant}",):
        for stem in _STEMS:
            single = folder / f"{stem}{infix}.safetensors"
            if single.is_file():
                return [single]
            for name in (f"{stem}.safetensors.index{infix}.json", f"{stem}{infix}.safetensors.index.json"):
                if (folder / name).is_file():
                    return _shards(folder / name)
    pickles = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in PICKLES]
    if pickles:
        raise SourceError(pickled(pickles[0]))
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


def pickled(path: Path) -> str:
    """What to say of a file that only unpickling could read."""
    return (
        f"{path}: a pickled checkpoint can run code when it is opened and is refused. "
        "Convert it to safetensors (diffusers: save_pretrained(..., safe_serialization=True))."
    )


def _either(classes: tuple[str, ...]) -> str:
    return " or ".join(classes)
