"""What a family hands to the exporter: networks with their weights, and the facts for the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgediff.export.emit.graph import Graph
from edgediff.export.emit.sizes import Extents
from edgediff.export.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Part:
    """One graph of the bundle: its role in the manifest, its folder, and where its weights come from.

    ``names`` maps a parameter's name to its tensor's; ``config`` is written beside the graph; ``trial`` is a
    set of input extents small enough for a first run.
    """

    role: str
    folder: str
    graph: Graph
    tensors: Tensors
    names: Mapping[str, str]
    config: bytes
    trial: Mapping[str, Extents]


@dataclass(frozen=True, slots=True)
class Model:
    """A whole model, ready to be written. ``files`` are copied as they are; ``notes`` are for the caller."""

    parts: tuple[Part, ...]
    facts: Mapping[str, Any]
    defaults: Mapping[str, Any]
    files: Mapping[str, bytes]
    notes: tuple[str, ...]
