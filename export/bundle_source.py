"""A bundle of ours as a model to export: its ONNX graphs hold every weight, and say where each lies.

What a bundle holds is the checkpoint with its adapters merged and its recipe applied. Numbers stored in half
precision stay what they are; one that was stored times a factor (``scale`` in ``parameters.json``) is divided
by it in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgediff.bundle import Bundle, GraphSpec
from edgediff.errors import SourceError, UnsupportedError
from edgediff.export.json_files import read_json
from edgediff.export.sources import TINY, Component, Source
from edgediff.export.tensors import Array, Entry
from edgediff.onnx_scan import scan

_ROLES = {
    "text_encoder": ("text_encoder",),
    "text_encoder_2": ("text_encoder_2",),
    "unet": ("denoiser",),
    "vae": ("decoder", "encoder"),
}
_TYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "float32": ("F32", np.dtype("<f4")),
    "float16": ("F16", np.dtype("<f2")),
}
_KEPT = ("sampler", "num_inference_steps", "guidance_scale", "size")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies: in ``file`` from ``begin`` on, or in the graph itself; and how it was stored."""

    file: Path
    begin: int
    inline: bytes | None
    stored: tuple[int, ...]
    dtype: np.dtype[Any]
    transposed: bool
    scale: float


class OnnxTensors:
    """The tensors of the graphs of one component, by the checkpoint's names."""

    def __init__(self, bundle: Bundle, specs: list[GraphSpec]) -> None:
        self._places: dict[str, _Place] = {}
        self.entries: dict[str, Entry] = {}
        for spec in specs:
            for name, place in _places(bundle, spec).items():
                self._places.setdefault(name, place)
        for name, place in self._places.items():
            shape = place.stored[::-1] if place.transposed else place.stored
            kind = next(key for key, dtype in _TYPES.values() if dtype == place.dtype)
            self.entries[name] = Entry(place.file, kind, shape, place.begin)

    def rows(self, name: str, limit: int) -> Iterator[Array]:
        """As in ``edgediff.export.tensors.Tensors``. A transposed tensor is held whole."""
        place = self._places[name]
        if place.transposed:
            yield from _cut(np.ascontiguousarray(_read(place, 0, place.stored[0], name).T), limit)
            return
        count = place.stored[0] if place.stored else 1
        width = prod(place.stored[1:]) * place.dtype.itemsize
        step = max(1, limit // max(1, width))
        for first in range(0, count, step):
            yield _read(place, first, min(step, count - first), name)

    def whole(self, name: str) -> Array:
        """All of a tensor."""
        return np.concatenate(list(self.rows(name, 1 << 62))).reshape(self.entries[name].shape)


@dataclass(frozen=True)
class BundleSource(Source):
    """A bundle whose graphs are for ONNX Runtime and hold floats."""

    bundle: Bundle = field(kw_only=True)

    @property
    def license(self) -> str | None:
        found = self.bundle.origin.get("license")
        return found if isinstance(found, str) else None

    @property
    def label(self) -> str:
        """The origin of the bundle's own weights."""
        return str(self.bundle.origin.get("source") or self.where.absolute().name)

    def origin(self) -> dict[str, Any]:
        return {"source": self.label, "revision": self.bundle.origin.get("revision"), "license": self.license}

    def components(self, name: str, classes: tuple[str, ...]) -> list[Component]:
        """As in ``Source``; the bundle lists its ControlNets by role, and may have a tiny decoder."""
        if name == TINY:
            return [] if self.bundle.tiny_decoder is None else [self._read(name, classes[0], (name,))]
        if name != "controlnet":
            return super().components(name, classes)
        return [self._read(control.role, classes[0], (control.role,)) for control in self.bundle.controls]

    def _component(self, name: str, class_name: str) -> Component:
        return self._read(name, class_name, _ROLES[name])

    def _read(self, name: str, class_name: str, roles: tuple[str, ...]) -> Component:
        specs = [_portable(self.bundle, role) for role in roles if role in self.bundle.components]
        if not specs:
            raise SourceError(f"{self.where}: holds no graph of {' or '.join(roles)}.")
        for spec in specs:
            self.bundle.admit(spec)
        folder = (self.where / specs[0].file).parent
        config = read_json(folder / "config.json")
        return Component(name, class_name, folder, config, OnnxTensors(self.bundle, specs))

    def scheduler(self) -> dict[str, Any]:
        return dict(self.bundle.scheduler)

    def tokenizer(self, name: str = "tokenizer") -> Path:
        self.bundle.admit_tokenizer(tokenizer=f"{name}/tokenizer.json")
        return self.where / name

    def extra(self, name: str) -> dict[str, Any] | None:
        """The bundle's own defaults stand for the file that a model folder may have beside its index."""
        if name != "edgediff_defaults.json":
            return None
        told = self.bundle.defaults
        return {
            "defaults": {key: _plain(getattr(told, key)) for key in _KEPT if getattr(told, key) is not None}
        }

    @property
    def recipe(self) -> str | None:
        """The recipe that the bundle was made with."""
        return self.bundle.defaults.recipe

    @property
    def notes(self) -> tuple[str, ...]:
        """Weights are whole whatever the graphs made of them: attention that was reduced is not, unless asked
        for again."""
        told = "+".join(map(str, self.bundle.attention))
        return (
            (f"the bundle's attention is reduced ({told}); this export does not take that over",)
            if told
            else ()
        )


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle of ours that can be a source: it says where each parameter lies."""
    return (folder / "edgediff.json").is_file() and (folder / "unet" / "parameters.json").is_file()


def open_bundle(folder: Path) -> BundleSource:
    """Open a bundle as a source; no weights are read.

    Raises:
        BundleError: the manifest is damaged. SourceError: the bundle has no index.
    """
    bundle = Bundle.open(folder)
    index = read_json(folder / "model_index.json")
    return BundleSource(folder, index, bundle=bundle)


def _portable(bundle: Bundle, role: str) -> GraphSpec:
    for spec in bundle.components[role]:
        if spec.runtime == "onnxruntime" and spec.profile == "portable":
            if spec.precision not in ("fp32", "fp16"):
                raise UnsupportedError(
                    f"{bundle.path}: {role} is stored as {spec.precision}; only bundles of fp32 or fp16 can "
                    "be exported again. Give the checkpoint that it was made from."
                )
            return spec
    raise UnsupportedError(f"{bundle.path}: {role} has no portable ONNX graph to take its weights from.")


def _places(bundle: Bundle, spec: GraphSpec) -> dict[str, _Place]:
    """Where the parameters of one graph lie; the graph is scanned before anything is believed of it."""
    file = bundle.path / spec.file
    scan(file, spec)
    listed = read_json(file.parent / "parameters.json").get("parameters")
    if not isinstance(listed, dict):
        raise SourceError(f"{file.parent / 'parameters.json'}: lists no parameters. Export the model again.")
    model = onnx.load(str(file), load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for name, about in listed.items():
        initializer = about.get("initializer") if isinstance(about, dict) else None
        if not isinstance(initializer, str):
            raise SourceError(f"{file.parent / 'parameters.json'}: {name[:100]} names no initializer.")
        if initializer in tensors:
            found[name] = _place(file, name, about, tensors[initializer])
    return found


def _place(file: Path, name: str, about: Mapping[str, Any], tensor: Any) -> _Place:
    shape, dtype = tuple(tensor.dims), about.get("dtype")
    scale, transposed = about.get("scale", 1.0), about.get("transposed", False)
    sound = (
        "bits" not in about
        and dtype in _TYPES
        and tensor.data_type == _ONNX[str(dtype)]
        and list(shape) == about.get("shape")
        and isinstance(scale, int | float)
        and scale > 0
        and (not transposed or len(shape) == 2)
    )
    if not sound:
        raise SourceError(f"{file.parent}: parameter {name[:100]} is not stored as parameters.json says.")
    kind = _TYPES[str(dtype)][1]
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return _Place(file, 0, bytes(tensor.raw_data), shape, kind, bool(transposed), float(scale))
    entry = {pair.key: pair.value for pair in tensor.external_data}
    place = file.parent / entry["location"]
    return _Place(place, int(entry.get("offset", 0)), None, shape, kind, bool(transposed), float(scale))


_ONNX = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}


def _read(place: _Place, first: int, count: int, name: str) -> Array:
    """Some rows of a tensor as it is stored, divided by its factor."""
    shape = (count, *place.stored[1:]) if place.stored else ()
    width = prod(place.stored[1:]) * place.dtype.itemsize
    size, at = prod(shape) * place.dtype.itemsize, first * width
    if place.inline is not None:
        data = place.inline[at : at + size]
    else:
        with place.file.open("rb") as file:
            file.seek(place.begin + at)
            data = file.read(size)
    if len(data) != size:
        raise SourceError(f"{place.file}: ended within {name[:100]}. The bundle is damaged.")
    found: Array = np.frombuffer(data, place.dtype).reshape(shape or (1,))
    return found if place.scale == 1.0 else found.astype(np.float32) / np.float32(place.scale)


def _cut(whole: Array, limit: int) -> Iterator[Array]:
    step = max(1, limit // max(1, whole[:1].nbytes))
    for first in range(0, len(whole), step):
        yield whole[first : first + step]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
