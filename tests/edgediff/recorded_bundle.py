"""A bundle that carries what its float parent gave."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edgediff import reference
from edgediff.reference import Record


def with_record(bundle: Path, record: Record, quality: dict[str, Any] | None = None) -> Path:
    """Put a record into a bundle, and into its manifest."""
    data = reference.dumps(record)
    (bundle / reference.FILE).write_bytes(data)
    manifest = json.loads((bundle / "edgediff.json").read_text(encoding="utf-8"))
    manifest["files"][reference.FILE] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if quality is not None:
        manifest["quality"] = quality
    (bundle / "edgediff.json").write_text(json.dumps(manifest), encoding="utf-8")
    return bundle
