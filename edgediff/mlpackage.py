"""Opens a Core ML package: a folder with a manifest of items, one of them the model, another its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from edgediff import links
from edgediff.errors import BundleError, UnsupportedError
from edgediff.manifest import safe_name

MANIFEST = "Manifest.json"
MAX_MANIFEST = 1 << 20
MAX_ITEMS = 64
WEIGHTS = "weights/weight.bin"
_AGAIN = "get the package again, or export the model again"


class Package(NamedTuple):
    """A package's files. ``weights`` is None where the program holds all its constants itself."""

    path: Path
    model: Path
    weights: Path | None


def open_package(path: Path, *, verified: bool = False) -> Package:
    """Return the files of the package ``path``, a folder whose name ends in ``.mlpackage``.

    ``verified``: a bundle's manifest says what the files hold, and they were compared; only then may they be
    links (other than those of the hub's cache, whose blobs are named by their content).

    Raises:
        UnsupportedError: it is a compiled model (.mlmodelc), which only the system that made it reads.
        BundleError: it is no package, lacks a file, or names files outside itself.
    """
    _check_kind(path)
    manifest = path / MANIFEST
    if not manifest.exists():
        raise BundleError(f"{path}: there is no {MANIFEST} in it, so it is no Core ML package; {_AGAIN}.")
    if not verified:
        _refuse_link(path, manifest)
    items = _items(manifest)
    root = items.get("")
    folder, _, name = (root or "").rpartition("/")
    if root is None or not name.endswith(".mlmodel"):
        raise BundleError(f"{manifest}: it names no model as its root; {_AGAIN}.")
    model = _inside(path, path / "Data" / root, verified)
    weights = path / "Data" / folder / WEIGHTS
    if not weights.is_file() and not weights.is_symlink():  # its program may hold all constants itself
        return Package(path, model, None)
    beside = f"{folder}/weights".lstrip("/")
    if not {beside, f"{beside}/weight.bin"} & set(items.values()):
        raise BundleError(f"{manifest}: it does not list {weights}, which lies in the package; {_AGAIN}.")
    return Package(path, model, _inside(path, weights, verified))


def _check_kind(path: Path) -> None:
    if path.suffix == ".mlmodelc" or (path / "coremldata.bin").exists():
        raise UnsupportedError(
            f"{path}: it is a compiled model, which only Core ML on a Mac or iPhone reads; give the "
            ".mlpackage that it was compiled from, or export the model again."
        )
    if path.suffix == ".mlmodel" and path.is_file():
        raise UnsupportedError(
            f"{path}: it is a model in one file; give the .mlpackage that it belongs to, or export the "
            "model as an ML program."
        )
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise BundleError(f"{path}: expected a Core ML package, which is a folder, found {found}; {_AGAIN}.")


def _items(manifest: Path) -> dict[str, str]:
    """Return the paths of the items by their keys; the root model's again under ""."""
    stream, receipt = links.open_regular(manifest)
    with stream:
        if receipt.bytes > MAX_MANIFEST:
            raise BundleError(f"{manifest}: {receipt.bytes} bytes are more than {MAX_MANIFEST}; {_AGAIN}.")
        try:
            found: Any = json.loads(stream.read(MAX_MANIFEST + 1))
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{manifest}: it is no JSON ({str(error)[:80]}); {_AGAIN}.") from error
    entries = found.get("itemInfoEntries") if isinstance(found, dict) else None
    root = found.get("rootModelIdentifier") if isinstance(found, dict) else None
    if not isinstance(entries, dict) or not isinstance(root, str) or not 0 < len(entries) <= MAX_ITEMS:
        raise BundleError(f"{manifest}: it is no manifest of a Core ML package; {_AGAIN}.")
    items = {}
    for key, item in entries.items():
        place = item.get("path") if isinstance(item, dict) else None
        if not isinstance(place, str) or not key:
            raise BundleError(f"{manifest}: an item of it has no path; {_AGAIN}.")
        items[key] = safe_name(place, str(manifest))
    if root not in items:
        raise BundleError(f"{manifest}: its root model is not among its items; {_AGAIN}.")
    return {**items, "": items[root]}


def _inside(path: Path, file: Path, verified: bool) -> Path:
    if not verified:
        _refuse_link(path, file)
    stream, _ = links.open_regular(file)
    stream.close()
    return file


def _refuse_link(path: Path, file: Path) -> None:
    # The hub's client names files from the snapshot on, and the package may lie anywhere in one.
    parts = file.absolute().parts
    inside = len(path.absolute().parts)
    start = next((place + 2 for place in range(inside - 1, 0, -1) if parts[place] == "snapshots"), inside)
    links.refuse_link(file, "/".join(parts[start:]))
