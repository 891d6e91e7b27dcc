"""The exporter's entry point: a model folder becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from edgediff.errors import CancelledError, InputError, ResourceError, UnsupportedError
from edgediff.export.emit.onnx import Emitted, Tensor, emit
from edgediff.export.emit.onnx_builder import Storage
from edgediff.export.emit.weights import describe, size_of, write_weights
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model, Part
from edgediff.export.json_files import dump_json
from edgediff.export.sources import Source, open_source
from edgediff.export.tables import default_tables, listed
from edgediff.export.verify import check_graph, check_run
from edgediff.export.write import MANIFEST, Folder, check_space, check_target, new_folder

FORMAT_VERSION = "1.1"
_STORAGES: dict[str, Storage] = {"fp32": "fp32", "fp16": "fp16"}


def export_onnx(
    model: str,
    out: str,
    *,
    dtype: str = "fp32",
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """Turn the diffusers folder ``model`` into the bundle ``out``; both are paths.

    ``dtype`` is the type in which weights are stored; graphs compute in float32 and weights widen when they
    are loaded. ``report`` receives a line per stage. ``verify`` checks and runs each graph once before the
    bundle appears. The result: ``bundle`` (path), ``bytes``, ``files`` (count), ``precision``, ``ran`` (every
    graph did) and ``notes``. Raises only errors of ``edgediff.errors``; nothing then stands at ``out``.
    """
    say = report if report is not None else _silent
    if dtype not in _STORAGES:
        raise InputError(f"dtype {dtype!r}: known are {' and '.join(_STORAGES)}.")
    target = Path(out)
    try:
        check_target(target, overwrite)
        source = open_source(model)
        built = _build(source)
        for note in built.notes:
            say(f"note: {note}")
        return _write(source, built, target, _STORAGES[dtype], overwrite, verify, say)
    except KeyboardInterrupt:
        raise CancelledError(f"{out}: the export was stopped; nothing was written.") from None
    except OSError as error:
        raise ResourceError(f"{error.filename or model}: {error.strerror or error}.") from error
    except MemoryError:
        raise ResourceError(f"{model}: the machine has too little memory for its largest tensor.") from None


def _build(source: Source) -> Model:
    if source.pipeline in stable_diffusion.PIPELINES:
        return stable_diffusion.build(source)
    covered = ", ".join(stable_diffusion.PIPELINES)
    raise UnsupportedError(
        f"{source.where}: is a {source.pipeline or 'nameless model'}; covered are {covered}."
    )


def _write(
    source: Source,
    model: Model,
    out: Path,
    storage: Storage,
    overwrite: bool,
    verify: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    emitted = [(part, emit(part.graph, storage)) for part in model.parts]
    check_space(out, sum(size_of(each.stored) for _, each in emitted) + sum(map(len, model.files.values())))
    components: dict[str, Any] = {}
    tables, notes = default_tables(model.facts, model.defaults)
    for note in notes:
        say(f"note: {note}")
    ran = verify
    with new_folder(out, overwrite) as folder:
        for part, graph in emitted:
            say(f"writing {part.folder}")
            components[part.role] = _component(folder, part, graph, storage)
        for name, data in {**model.files, **tables}.items():
            folder.write(name, data)
        manifest = {
            "format_version": FORMAT_VERSION,
            "edgediff_version": _version(),
            "origin": {"source": source.label, "revision": None, "license": source.license},
            "model": model.facts,
            "defaults": model.defaults,
            "components": components,
            "tables": listed(tables, model.defaults),
            "files": dict(sorted(folder.files.items())),
        }
        folder.write(MANIFEST, dump_json(manifest))
        for part, graph in emitted if verify else ():
            say(f"checking {part.folder}")
            path = folder.path / part.folder / "model.onnx"
            check_graph(path)
            ran = check_run(path, part, graph.inputs, graph.outputs) and ran
    total = sum(int(facts["bytes"]) for facts in folder.files.values())
    return {
        "bundle": str(out),
        "bytes": total,
        "files": len(folder.files),
        "precision": storage,
        "ran": ran,
        "notes": [*model.notes, *notes],
    }


def _component(folder: Folder, part: Part, graph: Emitted, storage: Storage) -> dict[str, Any]:
    """Write one graph with its weights, configuration and table of parameters; its entry in the manifest."""
    name, weights = f"{part.folder}/model.onnx", f"{part.folder}/model.onnx_data"
    with folder.create(weights) as file:
        write_weights(graph.model, graph.stored, part.tensors, part.names, file, Path(weights).name)
    folder.write(name, graph.model.SerializeToString(deterministic=True))
    folder.write(f"{part.folder}/config.json", part.config)
    folder.write(f"{part.folder}/parameters.json", dump_json({"parameters": describe(graph.stored)}))
    entry = {
        "runtime": "onnxruntime",
        "profile": "portable",
        "file": name,
        "weights": [weights],
        "precision": storage,
        "inputs": [_listed(tensor) for tensor in graph.inputs],
        "outputs": [_listed(tensor) for tensor in graph.outputs],
    }
    return {"graphs": [entry], "parameters": f"{part.folder}/parameters.json"}


def _listed(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "dims": list(tensor.dims)}


def _version() -> str:
    try:
        return metadata.version("edgediff")
    except metadata.PackageNotFoundError:
        return "unknown"


def _silent(line: str) -> None:
    """Report nothing."""
