"""What OpenVINO compiled, kept: a blob for each graph, machine, version, precision, size and thread count.

The plug-in takes a folder (``CACHE_DIR``) and writes there what it compiled, or reads it if it is there.
Every entry of our own cache is such a folder with one blob, whose bytes are compared with their receipt
before the plug-in sees them (:mod:`edgediff.cache_folder`). Reading one gives the same kernels, and the same
numbers.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgediff import __version__, cache_folder, cpu, machine, probe
from edgediff.errors import ResourceError

_ROOM = 1 << 30  # bytes that stay free beside a blob
_WIDER = 2  # a blob has at most twice the bytes of its graph's weights, which half precision is widened to


def facts(graph: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a blob depends on: ``graph`` is the sha256 of the graph's files."""
    features = hashlib.sha256(" ".join(sorted(cpu.features())).encode()).hexdigest()
    return {
        "kind": "openvino",
        "graph": graph,
        "edgediff": __version__,
        "versions": probe.versions(),
        "cpu": [machine.card()["processor"], features],
        **options,
    }


def session(
    folder: Path, key: Mapping[str, Any], weights: int, opened: Callable[[Mapping[str, str]], Any]
) -> tuple[Any, str]:
    """Return the session that ``opened`` gives when told a folder for its blob, and what became of it:
    ``found``, ``made``, or why nothing was kept.

    ``opened`` is called with further hints for the device; ``weights`` are the bytes of the graph's weights.
    """
    name = cache_folder.key(key)
    found = cache_folder.find(folder, name)
    if found is not None:
        try:
            return opened({"CACHE_DIR": str(found)}), "found"
        except Exception:  # whatever it was, the graph itself decides whether it is an error
            cache_folder.remove(folder, name)
            return opened({}), "not kept: the blob was refused"
    if not _room(folder, weights):
        return opened({}), "not kept: the disk is too full"
    made: list[Any] = []
    try:
        cache_folder.make(
            folder, name, key, lambda fresh: made.append(opened({"CACHE_DIR": str(fresh)})), later=True
        )
    except ResourceError as error:
        warnings.warn(f"{error}", stacklevel=2)
        return made[0] if made else opened({}), "not kept: the folder cannot be written"
    return made[0], "made"


def _room(folder: Path, weights: int) -> bool:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        return shutil.disk_usage(there).free > _WIDER * weights + _ROOM
    except OSError:
        return False
