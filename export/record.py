"""Writes what was found out about a bundle after its export into its manifest."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from edgediff.errors import ResourceError
from edgediff.export.json_files import dump_json, read_json
from edgediff.export.write import MANIFEST


def record_numerics(bundle: Path, fits: Mapping[str, bool]) -> None:
    """Say of each role's graphs in half precision whether that was proven; the manifest changes at once.

    Raises:
        ResourceError: the manifest cannot be written.
    """
    path = bundle / MANIFEST
    manifest = read_json(path)
    for role, proven in fits.items():
        for graph in manifest["components"][role]["graphs"]:
            if "fp16" in graph["precision"]:
                graph["numerics"] = "proven" if proven else "unproven"
    made = path.with_name(f".{MANIFEST}.{secrets.token_hex(4)}")
    try:
        with made.open("xb") as file:
            file.write(dump_json(manifest))
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise ResourceError(f"{path}: cannot be written ({error.strerror}).") from error
