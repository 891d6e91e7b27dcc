"""The float ONNX bundle that packages are measured against, and calibrated with."""

from __future__ import annotations

from pathlib import Path

from edgediff.export.bundle_folder import Content, fill
from edgediff.export.emit.onnx import PORTABLE
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.families.parts import Model
from edgediff.export.json_files import dump_json
from edgediff.export.sources import Source
from edgediff.export.write import MANIFEST, Folder


def write_parent(path: Path, source: Source, model: Model) -> None:
    """Write the bundle into the new folder ``path``."""
    path.mkdir()
    folder = Folder(path)
    content = Content("fp32", (PORTABLE, ORT_CPU), "fp32", verify=False)
    filled = fill(folder, source, model, content, _quiet)
    manifest = {**filled.manifest, "files": dict(sorted(folder.files.items()))}
    folder.write(MANIFEST, dump_json(manifest))


def _quiet(line: str) -> None:
    """Report nothing."""
