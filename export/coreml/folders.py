"""What lies beside the packages: tokenizers, tables, configurations, and a manifest or a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgediff.export.coreml import apple
from edgediff.export.coreml.entries import components
from edgediff.export.coreml.options import Wanted
from edgediff.export.coreml.receipt import Written
from edgediff.export.families.parts import Model
from edgediff.export.json_files import dump_json
from edgediff.export.sources import Source
from edgediff.export.tables import default_tables, listed
from edgediff.export.write import MANIFEST, SUMMARY, Folder

FORMAT_VERSION = "1.4"
SUMMARY_FORMAT = "edgediff-apple/1"
Say = Callable[[str], None]


def write_beside(folder: Folder, model: Model, asked: Wanted, say: Say) -> tuple[dict[str, bytes], list[str]]:
    """Write what runs no network; the tables of the default sampler, and notes."""
    if asked.layout == "apple":
        place = apple.tokenizer_of(model)
        for name in apple.TOKENIZER_FILES:
            folder.write(name, model.files[f"{place}/{name}"])
        return {}, []
    tables, notes = default_tables(model.facts, model.defaults)
    for note in notes:
        say(f"note: {note}")
    configs = {f"{part.folder}/config.json": part.config for part in model.parts}
    for name, data in {**model.files, **configs, **tables}.items():
        folder.write(name, data)
    return tables, notes


def describe(
    folder: Folder,
    source: Source,
    model: Model,
    asked: Wanted,
    written: Sequence[Written],
    version: str,
    *,
    tables: Mapping[str, bytes],
    notes: Iterable[str] = (),
    quality: Mapping[str, Any] | None = None,
) -> tuple[str, bytes]:
    """The name and the bytes of the file that says what the folder is: a manifest, or a summary."""
    told: dict[str, Any] = {} if quality is None else {"quality": quality}
    files = dict(sorted(folder.files.items()))
    if asked.layout == "apple":
        return SUMMARY, dump_json(
            {
                "format": SUMMARY_FORMAT,
                "edgediff_version": version,
                "origin": source.origin(),
                "asked": _asked(asked),
                "model": {**model.facts, "defaults": model.defaults},
                "packages": [_package(each) for each in written],
                "notes": list(notes),
                **told,
                "files": files,
            }
        )
    return MANIFEST, dump_json(
        {
            "format_version": FORMAT_VERSION,
            "edgediff_version": version,
            "origin": source.origin(),
            "model": model.facts,
            "defaults": model.defaults,
            "components": components(written),
            "tables": listed(tables, model.defaults),
            **told,
            "files": files,
        }
    )


def _asked(asked: Wanted) -> dict[str, Any]:
    """The options that were not left at their defaults' None; where files were is not told."""
    kept = {key: value for key, value in asdict(asked).items() if value not in (None, ()) and key != "scheme"}
    return {key: True if key in ("plan", "calibration") else value for key, value in kept.items()}


def _package(written: Written) -> dict[str, Any]:
    return {
        "role": written.role,
        "models": list(written.models),
        "precision": written.precision,
        "attention": written.profile,
        "inputs": [asdict(tensor) for tensor in written.spec.inputs],
        "outputs": [asdict(tensor) for tensor in written.spec.outputs],
    }
