"""Writes graphs with some layers quantized into the float parent's folder, one after the other, to be run.

What is float refers to the parent's weights. Codes are written once for each way in which layers can be
coded, for all layers, so that a trial costs its graph alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from edgediff.bundle import Bundle, GraphSpec
from edgediff.export.emit.integers import Choice, Quantization, Span
from edgediff.export.emit.onnx import Emitted, emit
from edgediff.export.emit.onnx_builder import Stored
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.emit.weights import Place, joined, refer, write_bytes
from edgediff.export.families.parts import Model, Part
from edgediff.export.quantize.units import units_of


@dataclass
class Trials:
    """Graphs to try. ``parent`` is a bundle that was written from ``model``; it is left as it was found.

    ``spans`` are those of calibration, by role and value id; ``vnni`` names convolutions by role.
    ``count`` is how many graphs were written.
    """

    parent: Path
    model: Model
    spans: Mapping[str, Mapping[int, Span]]
    vnni: Mapping[str, frozenset[str]] = field(default_factory=dict)
    _places: dict[tuple[str, Choice], dict[str, Place]] = field(default_factory=dict)
    _files: list[Path] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        opened = Bundle.open(self.parent)
        # Nothing is compared with the manifest, which does not know of these files.
        self.bundle = replace(opened, files={})
        self._parts = {part.role: part for part in self.model.parts}
        self._known = {role: _initializers(opened, role) for role in self._parts}

    @contextmanager
    def bundle_of(self, choices: Mapping[str, Mapping[str, Choice]]) -> Iterator[Bundle]:
        """The bundle with those roles' graphs in which layers get ``choices``; gone afterwards."""
        components = dict(self.bundle.components)
        written = []
        try:
            for role, given in choices.items():
                path = self._write(self._parts[role], given)
                written.append(path)
                file = path.relative_to(self.bundle.path).as_posix()
                components[role] = (GraphSpec("onnxruntime", ORT_CPU.name, file, "any"),)
            yield replace(self.bundle, components=components)
        finally:
            for path in written:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Take the codes away."""
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()
        self._places.clear()

    def _write(self, part: Part, choices: Mapping[str, Choice]) -> Path:
        emitted = self._said(part, choices)
        owner = {each.name: node.scope for node in part.graph.nodes for each in node.parameters}
        coded: dict[Choice, list[Stored]] = {}
        for each in emitted.stored:
            if each.coding is None and each.piece == "codes":
                entry = emitted.model.graph.initializer.add()
                entry.CopyFrom(self._known[part.role][each.initializer])
                entry.ClearField("dims")
                entry.dims.extend(each.shape)
            else:
                coded.setdefault(choices[owner[each.parameter.name]], []).append(each)
        for choice, stored in coded.items():
            refer(emitted.model, tuple(stored), self._coded(part, choice), _file(choice))
        self.count += 1
        path = self.bundle.path / part.folder / f"trial_{self.count}.onnx"
        path.write_bytes(emitted.model.SerializeToString())
        return path

    def _said(self, part: Part, choices: Mapping[str, Choice]) -> Emitted:
        vnni = self.vnni.get(part.role, frozenset())
        spans = self.spans.get(part.role, {})
        return emit(part.graph, profile=ORT_CPU, quantization=Quantization(choices, spans, vnni))

    def _coded(self, part: Part, choice: Choice) -> dict[str, Place]:
        """Where the codes lie of every layer that can get ``choice``; written when first asked for."""
        key = (part.folder, choice)
        if key not in self._places:
            forms = []
            for other in (each for each in self.model.parts if each.folder == part.folder):
                units = units_of(other, self.spans.get(other.role, {}))
                given = [unit.choices.get(choice, {}) for unit in units]
                able = {scope: got for each in given for scope, got in each.items() if got == choice}
                forms.append(tuple(s for s in self._said(other, able).stored if s.coding is not None))
            path = self.bundle.path / part.folder / _file(choice)
            self._files.append(path)
            with path.open("wb") as file:
                self._places[key] = write_bytes(joined(forms), part.tensors, part.names, file)
        return self._places[key]


def _file(choice: Choice) -> str:
    return f"trial_{choice}.onnx_data"


def _initializers(bundle: Bundle, role: str) -> dict[str, onnx.TensorProto]:
    """A role's float weights, as the bundle's own forms of its graph say where they lie."""
    known: dict[str, onnx.TensorProto] = {}
    for spec in bundle.components[role]:
        model = onnx.load(str(bundle.path / spec.file), load_external_data=False)
        for entry in model.graph.initializer:
            known.setdefault(entry.name, entry)
    return known
