"""What a family hands to the exporter: networks with their weights, and the facts for the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgediff.export.checkpoint import Spellings, match
from edgediff.export.emit.graph import Graph
from edgediff.export.emit.sizes import Extents
from edgediff.export.json_files import dump_json
from edgediff.export.sources import Component
from edgediff.export.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Part:
    """One graph of the bundle: its role in the manifest, its place, and where its weights come from.

    Parts of one ``folder`` are forms of one network and share its weights file; ``file`` is the graph's name
    there. ``names`` maps a parameter's name to its tensor's; ``config`` is written beside the graph;
    ``trial`` is a set of input extents small enough for a first run. ``overflows`` says that half precision
    is known to be too narrow for what the network computes (not for its weights).
    """

    role: str
    folder: str
    graph: Graph
    tensors: Tensors
    names: Mapping[str, str]
    config: bytes
    trial: Mapping[str, Extents]
    file: str = "model"
    overflows: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A whole model, ready to be written. ``files`` are copied as they are; ``notes`` are for the caller."""

    parts: tuple[Part, ...]
    facts: Mapping[str, Any]
    defaults: Mapping[str, Any]
    files: Mapping[str, bytes]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """A graph of a component and what :class:`Part` says of it."""

    role: str
    folder: str
    graph: Graph
    trial: Mapping[str, Extents]
    file: str = "model"
    overflows: bool = False


def parts_of(component: Component, spellings: Spellings, forms: Iterable[Form]) -> list[Part]:
    """The graphs that share one component's checkpoint, which must hold exactly their parameters."""
    forms = list(forms)
    parameters = {parameter.name: parameter for form in forms for parameter in form.graph.parameters}
    names = match(parameters.values(), component.tensors, spellings, component.where)
    config = dump_json({key: value for key, value in component.config.items() if key != "_name_or_path"})
    return [
        Part(f.role, f.folder, f.graph, component.tensors, names, config, f.trial, f.file, f.overflows)
        for f in forms
    ]
