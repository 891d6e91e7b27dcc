"""Fills a folder with a model's graphs, weights, tables and files, all that a bundle has but its manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from edgediff import golden
from edgediff.export.emit.integers import Quantization
from edgediff.export.emit.onnx import PORTABLE, Profile
from edgediff.export.emit.onnx_builder import Storage
from edgediff.export.emit.weights import size_of
from edgediff.export.families.parts import Model
from edgediff.export.forms import Form, by_device, folders_of, forms_of, stored_by, write_folder
from edgediff.export.json_files import dump_json
from edgediff.export.sources import Source
from edgediff.export.tables import default_tables, listed
from edgediff.export.verify import check_graph, check_run
from edgediff.export.write import Folder, check_space

FORMAT_VERSION = "1.5"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Content:
    """How a model is written: the type of its weights, its forms, and what is said with integers, by role.

    ``precision`` is what the manifest calls the result. ``verify`` checks and runs each graph once.
    """

    storage: Storage
    profiles: Sequence[Profile]
    precision: str
    verify: bool = True
    quantizations: Mapping[str, Quantization] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Filled:
    """What was written: the manifest but for its ``files``, whether every graph ran, and notes."""

    manifest: dict[str, Any]
    ran: bool
    notes: tuple[str, ...]


def needed_space(model: Model, forms: Sequence[Form]) -> int:
    """About how many bytes the bundle takes on the disk."""
    weights = sum(size_of(stored_by(each)) for each in folders_of(forms).values())
    return weights + sum(map(len, model.files.values()))


def fill(folder: Folder, source: Source, model: Model, content: Content, say: Say) -> Filled:
    """Write everything; weights are read a piece of a tensor at a time.

    Raises:
        ResourceError: the disk has too little room. SourceError: a tensor is damaged.
        CheckFailed: a graph is not valid, or gives no finite numbers.
    """
    forms = forms_of(model, content.storage, content.profiles, content.quantizations)
    check_space(folder.path, needed_space(model, forms))
    components: dict[str, Any] = {}
    tables, notes = default_tables(model.facts, model.defaults)
    for note in notes:
        say(f"note: {note}")
    for name, each in folders_of(forms).items():
        say(f"writing {name}")
        components |= write_folder(folder, each, content.precision)
    for name, data in {**model.files, **tables}.items():
        folder.write(name, data)
    ran = _check(folder, forms, say) if content.verify else False
    manifest = {
        "format_version": FORMAT_VERSION,
        "edgediff_version": _version(),
        "origin": source.origin(),
        "model": model.facts,
        "defaults": model.defaults,
        "components": components,
        "profiles": by_device(content.profiles),
        "tables": listed(tables, model.defaults),
    }
    return Filled(manifest, ran, tuple(notes))


def _check(folder: Folder, forms: Sequence[Form], say: Say) -> bool:
    """Check every graph, run each that runs here, and write what the chosen ones gave for golden inputs."""
    ran, seen = True, {}
    for form in forms:
        say(f"checking {form.file}")
        path = Path(folder.path) / form.file
        check_graph(path)
        if form.runs_here:
            passed = check_run(path, form.part, form.emitted.inputs, form.emitted.outputs)
            ran = ran and passed is not None
            if passed is None:
                continue
            if form.profile is PORTABLE:
                seen[form.part.role] = golden.entry(*passed)
            elif form.integers:
                seen[f"{form.part.role}@{form.profile.name}"] = golden.entry(*passed)
    if seen:
        folder.write(golden.FILE, dump_json({"format": golden.FORMAT, "graphs": seen}))
    return ran


def _version() -> str:
    try:
        return metadata.version("edgediff")
    except metadata.PackageNotFoundError:
        return "unknown"
