"""A folder that Optimum exported becomes a bundle: a manifest is added, no graph is changed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from edgediff import golden
from edgediff.bundle import Bundle, GraphSpec, TensorSpec
from edgediff.errors import EdgediffError, InputError, SourceError
from edgediff.export.json_files import dump_json, read_json
from edgediff.export.optimum import manifest as fields
from edgediff.export.optimum.facts import ROLES, UNDRIVEN, facts_of
from edgediff.export.optimum.graph_files import GraphFile, copy_into, read_graph
from edgediff.export.optimum.trial import Extents, feeds, one_pass
from edgediff.export.recipes import Recipe, named, recognised
from edgediff.export.sources import FolderSource
from edgediff.export.tables import default_tables, listed
from edgediff.export.tokenizer import text_length, tokenizer_files
from edgediff.export.verify import check_graph
from edgediff.export.write import MANIFEST, Folder, check_space, check_target, new_folder
from edgediff.onnx_scan import scan

FORMAT_VERSION = "1.2"
_TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
_OTHER_TOKENIZER_FILES = ("spiece.model", "tokenizer.model", "added_tokens.json")
_GRAPH = "model.onnx"


def is_optimum_folder(path: str | Path) -> bool:
    """Return whether a folder holds a denoiser as an ONNX graph, and in no other form.

    Some checkpoints have graphs beside their weights; those are exported from the weights.
    """
    folder = Path(path)
    if not (folder / "model_index.json").is_file():
        return False
    networks = [folder / name for name in ("unet", "transformer") if (folder / name / _GRAPH).is_file()]
    return any(not [*network.glob("*.safetensors"), *network.glob("*.bin")] for network in networks)


def add_manifest(
    path: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
    verify: bool = True,
    origin: Mapping[str, Any] | None = None,
    take: bool = False,
    recipe: str | None = None,
) -> dict[str, Any]:
    """Copy a folder of graphs to the new folder ``out`` and add ``edgediff.json``, whole or not at all.

    Every graph is scanned and, with ``verify``, run once. ``origin`` is that of the weights, unless the
    folder says it; ``take`` moves the graphs away instead of copying them; ``recipe`` is one of
    :mod:`edgediff.export.recipes`, recognised unless named. The result is that of
    :func:`edgediff.export.main.export_onnx`.

    Raises:
        SourceError: a graph or configuration is missing, damaged or unsafe.
        UnsupportedError: a graph takes or gives what edgediff does not feed.
        CheckFailed: a graph does not run, or gives NaN or Inf.
    """
    folder, target = Path(path), Path(out)
    say: Callable[[str], None] = report if report is not None else lambda line: None
    check_target(target, overwrite)
    if (folder / MANIFEST).exists():
        raise InputError(f"{folder}: is a bundle already; there is nothing to export.")
    index = read_json(folder / "model_index.json")
    graphs = {n: read_graph(folder / n / _GRAPH) for n in ROLES if (folder / n / _GRAPH).is_file()}
    facts = facts_of(folder, index, graphs)
    source = FolderSource(folder, index)
    tokenizers, facts = _tokenizers(folder, facts)
    copied = _copied(folder, graphs)
    check_space(target, sum(file.stat().st_size for file in copied.values()))
    specs = {name: spec_of(folder, name, graph) for name, graph in graphs.items()}
    driven = facts.tasks != (UNDRIVEN,)
    chosen, told = _recipe(facts, recipe, source.label) if driven else (None, [])
    if chosen is not None:
        facts = replace(facts, scheduler=chosen.scheduler(facts.scheduler))
    model, defaults = fields.model(facts), fields.defaults(facts)
    defaults |= {} if chosen is None else chosen.defaults()
    tables, notes = default_tables(model, defaults) if driven else ({}, [_note(facts.family)])
    notes = [*told, *notes]
    notes += [f"{name} is not part of the bundle" for name in _dropped(source, graphs)]
    for note in notes:
        say(f"note: {note}")
    with new_folder(target, overwrite) as made:
        for name, file in copied.items():
            if name.endswith(_GRAPH):
                say(f"{'moving' if take else 'copying'} {name.partition('/')[0]}")
            copy_into(made, name, file, take)
        made.write("model_index.json", dump_json(_index(source, graphs)))
        made.write("scheduler/scheduler_config.json", dump_json(dict(facts.scheduler)))
        for name, data in {**tokenizers, **tables}.items():
            made.write(name, data)
        try:
            ran = _checked(made, specs, facts, verify, say)
        except EdgediffError as error:  # name the folder that stays
            raise type(error)(str(error).replace(str(made.path), str(folder))) from error
        manifest = {
            "format_version": FORMAT_VERSION,
            "edgediff_version": _version(),
            "origin": dict(source.origin() if origin is None else origin),
            "model": model,
            "defaults": defaults,
            "components": {ROLES[name]: {"graphs": [fields.graph(spec)]} for name, spec in specs.items()},
            "tables": listed(tables, defaults),
            "files": dict(sorted(made.files.items())),
        }
        made.write(MANIFEST, dump_json(manifest))
        Bundle.open(made.path)  # what was written is a bundle
    return {
        "bundle": str(out),
        "bytes": sum(int(record["bytes"]) for record in made.files.values()),
        "files": len(made.files),
        "precision": specs["transformer" if "transformer" in specs else "unet"].precision,
        "ran": ran,
        "notes": notes,
    }


def _recipe(facts: Bundle, asked: str | None, label: str) -> tuple[Recipe | None, list[str]]:
    if asked is not None:
        return named(asked), []
    found = recognised(facts.scheduler, facts.guidance_embedding is not None, [label])
    if found is None:
        return None, []
    return found[0], [f"drawn as {found[0].name} models are, by {found[1]}; --recipe says otherwise"]


def _checked(
    made: Folder, specs: Mapping[str, GraphSpec], facts: Bundle, verify: bool, say: Callable[[str], None]
) -> bool:
    """Scan every graph and, with ``verify``, run it; write what they gave for golden inputs."""
    runs = verify and importlib.util.find_spec("onnxruntime") is not None
    seen = {}
    for name, spec in specs.items():
        say(f"checking {name}")
        path = made.path / spec.file
        if not runs:
            scan(path, spec)
            continue
        check_graph(path)
        given = feeds(spec.inputs, _extents(made.path, name, facts))
        seen[ROLES[name]] = golden.entry(given, one_pass(path, spec, given))
    if seen:
        made.write(golden.FILE, dump_json({"format": golden.FORMAT, "graphs": seen}))
    return runs


def _extents(folder: Path, name: str, facts: Bundle) -> Extents:
    channels, factor = facts.latents.channels, facts.latents.downscale["height"]
    if name == "vae_encoder":
        return Extents(4 * factor, 4 * factor, 3)
    if name == "vae_decoder":
        return Extents(4, 4, channels)
    config = folder / name / "config.json"
    told = read_json(config) if config.is_file() else {}
    levels = told.get("block_out_channels")
    side = max(8, 2 ** len(levels)) if isinstance(levels, list) and len(levels) < 12 else 8
    inside = told.get("in_channels")
    return Extents(side, side, inside if isinstance(inside, int) else channels)


def spec_of(folder: Path, name: str, graph: GraphFile) -> GraphSpec:
    """Return what the manifest states of the graph in the folder ``name``."""
    config = folder / name / "config.json"
    projected = read_json(config).get("projection_dim") if config.is_file() else None
    return GraphSpec(
        runtime="onnxruntime",
        profile="portable",
        file=f"{name}/{_GRAPH}",
        precision=graph.precision,
        inputs=graph.inputs,
        outputs=tuple(_told(tensor, projected) for tensor in graph.outputs),
        weights=tuple(f"{name}/{file}" for file in graph.weights),
        numerics="unproven" if graph.precision == "fp16" else None,
    )


def _told(tensor: TensorSpec, projected: Any) -> TensorSpec:
    """Optimum calls the width of the pooled vector a sequence's length, which other outputs have."""
    if tensor.name == "text_embeds" and len(tensor.dims) == 2 and isinstance(projected, int):
        return replace(tensor, dims=(tensor.dims[0], projected))
    return tensor


def _copied(folder: Path, graphs: Mapping[str, GraphFile]) -> dict[str, Path]:
    """The files that are taken as they are, by their names in the bundle."""
    found = {}
    for name, graph in graphs.items():
        for file in (_GRAPH, *graph.weights, "config.json"):
            if not (folder / name / file).is_file():
                if file == "config.json":
                    continue
                raise SourceError(f"{folder / name / file}: this file of weights is missing.")
            found[f"{name}/{file}"] = folder / name / file
    return found


def _tokenizers(folder: Path, facts: Bundle) -> tuple[dict[str, bytes], Bundle]:
    """The tokenizers' files, CLIP's completed by ``tokenizer.json``, and the facts that follow from them."""
    files: dict[str, bytes] = {}
    for name in _TOKENIZERS:
        if (folder / name).is_dir():
            files |= {f"{name}/{file}": data for file, data in tokenizer_files(folder / name).items()}
            for file in _OTHER_TOKENIZER_FILES:
                if (folder / name / file).is_file():
                    files[f"{name}/{file}"] = (folder / name / file).read_bytes()
    if facts.text is None:
        return files, facts
    encoders = []
    for encoder in facts.text.encoders:
        place = encoder.tokenizer.rpartition("/")[0]
        if f"{place}/tokenizer.json" not in files:
            raise SourceError(f"{folder / place}: the tokenizer is missing. The model is incomplete.")
        length = text_length(folder / place, encoder.length)
        encoders.append(replace(encoder, tokenizer=f"{place}/tokenizer.json", length=length))
    first = encoders[0]
    text = replace(facts.text, length=first.length, tokenizer=first.tokenizer, encoders=tuple(encoders))
    return files, replace(facts, text=text)


def _dropped(source: FolderSource, graphs: Mapping[str, GraphFile]) -> list[str]:
    carried = {*graphs, *_TOKENIZERS, "scheduler", "vae"}
    return [name for name in source.index if source.class_of(name) is not None and name not in carried]


def _index(source: FolderSource, graphs: Mapping[str, GraphFile]) -> dict[str, Any]:
    """The source's index; components that the bundle does not carry are declared absent."""
    index = {key: value for key, value in source.index.items() if key != "_name_or_path"}
    index |= {name: [None, None] for name in _dropped(source, graphs)}
    if "requires_safety_checker" in index:
        index["requires_safety_checker"] = False
    return index


def _note(family: str) -> str:
    return f"every graph runs, but this edgediff has no loop that draws with {family}"


def _version() -> str:
    try:
        return metadata.version("edgediff")
    except metadata.PackageNotFoundError:
        return "unknown"
