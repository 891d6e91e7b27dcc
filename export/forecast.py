"""What an export would write and take, from headers alone: ``--dry-run``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from edgediff.export.emit.onnx_builder import Stored
from edgediff.export.emit.weights import INLINE
from edgediff.export.families.parts import Model
from edgediff.export.forms import Form, folders_of, stored_by
from edgediff.export.sources import Source

# Measured: the interpreter with NumPy, ONNX and ONNX Runtime, and what a check of small inputs takes beside
# its stretch of weights.
_BASE = 260 << 20
_STRETCH = 192 << 20
_ENTRY = 90  # bytes that say where a weight lies


def forecast(
    source: Source, model: Model, forms: Sequence[Form], out: Path, precision: str
) -> dict[str, Any]:
    """Bytes by file, the peak of memory, and whether the disk has room; nothing is written."""
    sizes: dict[str, int] = {}
    largest = 0
    for name, each in folders_of(forms).items():
        stored = stored_by(each)
        sizes |= {form.file: _graph_bytes(form) for form in each}
        sizes[f"{name}/model.onnx_data"] = sum(one.bytes for one in stored if one.bytes >= INLINE)
        largest = max([largest, *map(_held, stored)])
    sizes |= {name: len(data) for name, data in model.files.items()}
    total = sum(sizes.values())
    return {
        "bundle": str(out),
        "dry_run": True,
        "source": source.label,
        "precision": precision,
        "bytes": total,
        "files": sizes,
        "peak_memory": _BASE + max(largest, _STRETCH),
        "free_disk": shutil.disk_usage(out.absolute().parent).free,
        "notes": list(model.notes),
    }


def _graph_bytes(form: Form) -> int:
    """The graph as it is, with an entry for each weight; small ones lie in the graph itself."""
    entries = sum(
        len(each.initializer) + (_ENTRY if each.bytes >= INLINE else each.bytes + 16)
        for each in form.emitted.stored
    )
    return int(form.emitted.model.ByteSize()) + entries


def _held(stored: Stored) -> int:
    """Bytes in memory while one tensor is written: a transposed one is held whole."""
    if not stored.transposed:
        return 0
    return prod(stored.shape) * (4 if stored.dtype == "float32" else 2)
