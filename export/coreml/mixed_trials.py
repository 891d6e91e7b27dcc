"""Float graphs whose weights are what palettes decode to, drawn with in place of the packages to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgediff.export.coreml.mixed_plan import FLOAT
from edgediff.export.emit.integers import Choice
from edgediff.export.emit.onnx import Emitted, emit
from edgediff.export.emit.onnx_builder import Stored
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.emit.weights import Place, refer, write_bytes
from edgediff.export.families.parts import Model, Part
from edgediff.export.quantize.positions import layers_of, weight_of
from edgediff.export.quantize.trials import Trials
from edgediff.export.tensors import Array, Entry, Tensors

Coded = Callable[[NDArray[np.float32], str], NDArray[np.float32]]
"""What a weight, output channels first, decodes to once it is stored under the scheme of a name."""
_KEPT = 8 << 30  # bytes of decoded weights that are kept in files for later trials
_WAITING = 256 << 20  # bytes of decoded weights that are kept in memory


class Remembered:
    """What weights decode to, found once: ``kept`` bytes of it wait for the next who asks. ``Coded``."""

    def __init__(self, coded: Coded, kept: int = _WAITING) -> None:
        self._coded, self._kept, self._held = coded, kept, 0
        self._known: dict[tuple[bytes, str], NDArray[np.float32]] = {}

    def __call__(self, weight: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """What a weight decodes to under the scheme of a name."""
        key = (sha256(np.ascontiguousarray(weight).data).digest(), name)
        found = self._known.pop(key, None)
        if found is None:
            found = self._coded(weight, name)
            self._held += found.nbytes
        self._known[key] = found
        while self._held > self._kept and len(self._known) > 1:
            self._held -= self._known.pop(next(iter(self._known))).nbytes
        return found


class DecodedTensors:
    """The tensors of ``base``, of which those in ``schemes`` are what they decode to. ``Tensors``."""

    def __init__(self, base: Tensors, schemes: Mapping[str, str], coded: Coded) -> None:
        self._base, self._schemes, self._coded = base, schemes, coded
        self.entries: dict[str, Entry] = {
            name: replace(entry, dtype="F32") if name in schemes else entry
            for name, entry in base.entries.items()
        }

    def rows(self, name: str, limit: int) -> Iterator[Array]:
        """A tensor in runs along its first axis; one that is decoded comes at once."""
        if name in self._schemes:
            yield self.whole(name)
        else:
            yield from self._base.rows(name, limit)

    def whole(self, name: str) -> Array:
        """All of a tensor; float32 where it is decoded."""
        found = self._base.whole(name)
        if name not in self._schemes:
            return found
        return self._coded(found.astype(np.float32), self._schemes[name]).reshape(found.shape)


@dataclass(frozen=True, slots=True)
class _File:
    """Decoded weights in a file: its name beside the graphs, its bytes, and where each initializer lies."""

    path: Path
    bytes: int
    places: Mapping[str, Place]


class DecodedTrials(Trials):
    """Graphs to try, by the names of schemes. ``parent`` is a float32 bundle that was written from ``model``.

    Weights are decoded when a trial first asks for them. ``kept`` bytes of them wait for the next.
    """

    def __init__(self, parent: Path, model: Model, coded: Coded, kept: int = _KEPT) -> None:
        super().__init__(parent, model, {})
        self._decoder, self._kept = coded, kept
        self._emitted: dict[str, Emitted] = {}
        self._decoded: dict[
            tuple[str, str, str], _File
        ] = {}  # by folder, parameter and scheme; last used last
        self._written = 0

    def close(self) -> None:
        """Take the decoded weights away."""
        for each in self._decoded.values():
            each.path.unlink(missing_ok=True)
        self._decoded.clear()
        super().close()

    def _write(self, part: Part, choices: Mapping[str, Choice]) -> Path:
        emitted = self._float(part)
        named = cast(Mapping[str, str], choices)
        given = {
            weight_of(node).name: named[node.scope]
            for node in layers_of(part.graph)
            if named.get(node.scope, FLOAT) != FLOAT
        }
        model = type(emitted.model)()
        model.CopyFrom(emitted.model)
        used = set()
        for each in emitted.stored:
            name = given.get(each.parameter.name)
            if name is None:
                entry = model.graph.initializer.add()
                entry.CopyFrom(self._known[part.role][each.initializer])
                entry.ClearField("dims")
                entry.dims.extend(each.shape)
                continue
            key = (part.folder, each.parameter.name, name)
            found = self._decode(part, each, key)
            used.add(key)
            refer(model, (each,), found.places, found.path.name)
        self._forget(used)
        self.count += 1
        path = self.bundle.path / part.folder / f"trial_{self.count}.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def _float(self, part: Part) -> Emitted:
        if part.role not in self._emitted:
            self._emitted[part.role] = emit(part.graph, profile=ORT_CPU)
        return self._emitted[part.role]

    def _decode(self, part: Part, stored: Stored, key: tuple[str, str, str]) -> _File:
        """The file of one weight; of the forms that a graph has it in, all."""
        found = self._decoded.pop(key, None)
        if found is None or stored.initializer not in found.places:
            tensor = part.names[stored.parameter.name]
            tensors = DecodedTensors(part.tensors, {tensor: key[2]}, self._decoder)
            forms = tuple(s for s in self._float(part).stored if s.parameter.name == stored.parameter.name)
            self._written += 1
            path = self.bundle.path / part.folder / f"trial_decoded_{self._written}.onnx_data"
            with path.open("wb") as file:
                places = write_bytes(forms, tensors, part.names, file)
                found = _File(path, file.tell(), places)
        self._decoded[key] = found
        return found

    def _forget(self, used: set[tuple[str, str, str]]) -> None:
        """Take away what no trial has asked for in the longest time, where too much is kept."""
        held = sum(each.bytes for each in self._decoded.values())
        for key in [key for key in self._decoded if key not in used]:
            if held <= self._kept:
                return
            each = self._decoded.pop(key)
            each.path.unlink(missing_ok=True)
            held -= each.bytes


def as_choices(layers: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, Choice]]:
    """Names of schemes as those who draw pass them on; only :class:`DecodedTrials` reads them."""
    return cast(Mapping[str, Mapping[str, Any]], layers)
