"""The exporter's entry point: a model folder becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Unpack

from edgediff import golden
from edgediff.errors import CancelledError, InputError, ResourceError, UnsupportedError
from edgediff.export import others
from edgediff.export.assemble import Asked, Assembled, Choices, assemble
from edgediff.export.emit.onnx import PORTABLE, Profile
from edgediff.export.emit.onnx_builder import Storage
from edgediff.export.emit.weights import size_of
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.forecast import forecast
from edgediff.export.forms import (
    DEFAULT_PROFILES,
    Form,
    by_device,
    folders_of,
    forms_of,
    profiles_of,
    stored_by,
    write_folder,
)
from edgediff.export.json_files import dump_json
from edgediff.export.sources import FolderSource, Source
from edgediff.export.tables import default_tables, listed
from edgediff.export.verify import check_graph, check_run
from edgediff.export.write import MANIFEST, Folder, check_space, check_target, new_folder

FORMAT_VERSION = "1.2"
_STORAGES: dict[str, Storage] = {"fp32": "fp32", "fp16": "fp16"}


def export_onnx(
    model: str,
    out: str,
    *,
    dtype: str = "fp32",
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
    verify: bool = True,
    dry_run: bool = False,
    profiles: Iterable[str] = DEFAULT_PROFILES,
    **choices: Unpack[Choices],
) -> dict[str, Any]:
    """Turn ``model`` (a folder, a single file, or a hub's id) into the bundle ``out``.

    ``dtype`` is the type in which weights are stored; graphs compute in float32 and weights widen when they
    are loaded. ``report`` receives a line per stage. ``verify`` checks and runs each graph once before the
    bundle appears. ``dry_run`` writes nothing and says what would be written and how much memory it takes.
    ``profiles`` are the forms of each graph: ``portable`` always, ``ort-cpu``, ``ort-cuda``, ``coreml-ep``.
    ``choices`` are the fields of ``edgediff.export.assemble.Asked``: ``parts``, ``loras``, ``recipe``, ...

    The result: ``bundle`` (path), ``bytes``, ``files`` (count), ``precision``, ``ran`` (every graph did) and
    ``notes``. Raises only errors of ``edgediff.errors``; nothing then stands at ``out``.
    """
    say = report if report is not None else _silent
    if dtype not in _STORAGES:
        raise InputError(f"dtype {dtype!r}: known are {' and '.join(_STORAGES)}.")
    target, chosen = Path(out), profiles_of(profiles)
    try:
        check_target(target, overwrite)
        asked = {**choices, "profiles": {each.name for each in chosen} - set(DEFAULT_PROFILES)}
        done = others.taken(model, target, dtype, overwrite, say, verify, dry_run, asked)
        if done is not None:
            return done
        found = assemble(Asked(model, **choices), say)
        if found.source.pipeline not in stable_diffusion.PIPELINES and isinstance(found.source, FolderSource):
            return others.traced(found.source, target, dtype, overwrite, say, dry_run, asked)
        built = _build(found)
        for note in built.notes:
            say(f"note: {note}")
        if dry_run:
            return forecast(found.source, built, forms_of(built, _STORAGES[dtype], chosen), target, dtype)
        return _write(found.source, built, target, _STORAGES[dtype], chosen, overwrite, verify, say)
    except KeyboardInterrupt:
        raise CancelledError(f"{out}: the export was stopped; nothing was written.") from None
    except OSError as error:
        raise ResourceError(f"{error.filename or model}: {error.strerror or error}.") from error
    except MemoryError:
        raise ResourceError(f"{model}: the machine has too little memory for its largest tensor.") from None


def _build(found: Assembled) -> Model:
    source = found.source
    if source.pipeline not in stable_diffusion.PIPELINES:
        covered = ", ".join(stable_diffusion.PIPELINES)
        raise UnsupportedError(
            f"{source.where}: is a {source.pipeline or 'nameless model'}; covered are {covered}."
        )
    model = stable_diffusion.build(source, found.recipe)
    source.finish()
    return replace(model, notes=(*found.notes, *model.notes))


def _write(
    source: Source,
    model: Model,
    out: Path,
    storage: Storage,
    profiles: Sequence[Profile],
    overwrite: bool,
    verify: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    forms = forms_of(model, storage, profiles)
    folders = folders_of(forms)
    weights = sum(size_of(stored_by(each)) for each in folders.values())
    check_space(out, weights + sum(map(len, model.files.values())))
    components: dict[str, Any] = {}
    tables, notes = default_tables(model.facts, model.defaults)
    for note in notes:
        say(f"note: {note}")
    with new_folder(out, overwrite) as folder:
        for name, each in folders.items():
            say(f"writing {name}")
            components |= write_folder(folder, each, storage)
        for name, data in {**model.files, **tables}.items():
            folder.write(name, data)
        ran = _check(folder, forms, say) if verify else False
        manifest = {
            "format_version": FORMAT_VERSION,
            "edgediff_version": _version(),
            "origin": source.origin(),
            "model": model.facts,
            "defaults": model.defaults,
            "components": components,
            "profiles": by_device(profiles),
            "tables": listed(tables, model.defaults),
            "files": dict(sorted(folder.files.items())),
        }
        folder.write(MANIFEST, dump_json(manifest))
    total = sum(int(facts["bytes"]) for facts in folder.files.values())
    return {
        "bundle": str(out),
        "bytes": total,
        "files": len(folder.files),
        "precision": storage,
        "ran": ran,
        "notes": [*model.notes, *notes],
    }


def _check(folder: Folder, forms: Sequence[Form], say: Callable[[str], None]) -> bool:
    """Check every graph, run each that runs here, and write what the portable ones gave for golden inputs."""
    ran, seen = True, {}
    for form in forms:
        say(f"checking {form.file}")
        path = folder.path / form.file
        check_graph(path)
        if form.runs_here:
            passed = check_run(path, form.part, form.emitted.inputs, form.emitted.outputs)
            ran = ran and passed is not None
            if passed is not None and form.profile is PORTABLE:
                seen[form.part.role] = golden.entry(*passed)
    if seen:
        folder.write(golden.FILE, dump_json({"format": golden.FORMAT, "graphs": seen}))
    return ran


def _version() -> str:
    try:
        return metadata.version("edgediff")
    except metadata.PackageNotFoundError:
        return "unknown"


def _silent(line: str) -> None:
    """Report nothing."""
