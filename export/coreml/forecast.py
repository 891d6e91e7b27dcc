"""What an export to Core ML would write and take, from headers alone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgediff.export.coreml.content import Planned
from edgediff.export.coreml.layouts import FOLDER
from edgediff.export.coreml.options import MIXED, Wanted
from edgediff.export.families.parts import Model
from edgediff.export.sources import Source

_BASE = 300 << 20  # the interpreter with NumPy and coremltools
# Of a network's weights in half precision: measured with SD 1.5's U-Net, the program holds them once; a
# compressed one holds codes beside them.
_COPIES, _COMPRESSED = 1.2, 1.8


def needed_space(model: Model, asked: Wanted, planned: Sequence[Planned]) -> int:
    """About how many bytes the disk must hold while the export runs, its scratch folder included."""
    packages = sum(_bytes(each, 1.0) for each in planned)
    parent = 0
    if asked.needs_parent:
        folders = {part.folder: part for part in model.parts}
        parent = 4 * sum(parameter.size for p in folders.values() for parameter in p.graph.parameters)
    return packages + parent + sum(map(len, model.files.values()))


def forecast(
    source: Source, model: Model, asked: Wanted, planned: Sequence[Planned], out: Path
) -> dict[str, Any]:
    """Bytes by package, the peak of memory, and whether the disk has room; nothing is written.

    A mixed plan is known after its search; its packages are counted as they are before.
    """
    share = _share(asked)
    prefix = f"{FOLDER}/" if asked.layout == "edgediff" else ""
    sizes = {}
    for each in planned:
        for piece in each.pieces():
            width = 2 if each.form.half else 4
            weights = sum(parameter.size for parameter in piece.graph.parameters) * width
            sizes[f"{prefix}{piece.name}.mlpackage"] = int(weights * share)
    largest = max(_bytes(each, 1.0) for each in planned)
    return {
        "bundle": str(out),
        "dry_run": True,
        "layout": asked.layout,
        "source": source.label,
        "precision": asked.precision,
        "bytes": sum(sizes.values()),
        "files": sizes,
        "peak_memory": _BASE + int(largest * (_COPIES if asked.scheme is None else _COMPRESSED)),
        "free_disk": shutil.disk_usage(out.absolute().parent).free,
        "notes": list(model.notes),
    }


def _bytes(planned: Planned, share: float) -> int:
    width = 2 if planned.form.half else 4
    return int(sum(parameter.size for parameter in planned.part.graph.parameters) * width * share)


def _share(asked: Wanted) -> float:
    """The bits of a weight as a share of half precision's."""
    if asked.scheme is None or asked.quantize == MIXED:
        return 1.0
    return asked.scheme.bits / 16
