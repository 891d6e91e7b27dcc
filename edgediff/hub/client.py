"""The hub's client (``huggingface_hub`` 0.34 to 2), imported when it is needed, and its cache's layout."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgediff.errors import UnsupportedError
from edgediff.hub import errors as hub_errors
from edgediff.hub.files import INDEX
from edgediff.manifest import MANIFEST


def load() -> Any:
    """Import the hub's client, with its telemetry off unless the user has a say in it."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        for part in ("constants", "errors", "utils"):  # not all of them are loaded with the package
            importlib.import_module(f"huggingface_hub.{part}")
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UnsupportedError(
            f"the hub's models and its cache need one more package ({error}): pip install huggingface_hub"
        ) from error


def is_offline() -> bool:
    """Return whether the user has switched the hub off (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE)."""
    return bool(load().constants.HF_HUB_OFFLINE)


def cached_folder(repo: str, revision: str | None) -> Path | None:
    """Return the folder of a revision in the hub's cache, as far as it was downloaded; asks no network."""
    client = load()
    # Newer clients compare what these patterns match with their own record of the repository's files.
    only: Any = {"local_files_only": True, "allow_patterns": [MANIFEST, INDEX]}
    with hub_errors.translated(repo, revision):
        try:
            folder = client.snapshot_download(repo, revision=revision, **only)
        except client.errors.LocalEntryNotFoundError:
            return None
    return Path(folder)  # never resolved: ONNX Runtime refuses weights behind a resolved link


def is_cached(client: Any, repo: str, commit: str, sibling: Any) -> bool:
    """Return whether a file is there, in this revision or, as part of another, by its content's name."""
    if isinstance(client.try_to_load_from_cache(repo, sibling.rfilename, revision=commit), str):
        return True
    blob = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
    return blob is not None and (repository(client, repo) / "blobs" / blob).is_file()


def repository(client: Any, repo: str) -> Path:
    """Return the folder of a model in the cache: ``blobs``, ``refs`` and ``snapshots`` are in it."""
    return Path(client.constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


@contextmanager
def bars(client: Any, wanted: bool) -> Iterator[None]:
    """Let the client draw its progress bars on a terminal alone; a variable of the user's decides first."""
    utils = client.utils
    decided = client.constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    if decided or utils.are_progress_bars_disabled():
        yield
        return
    if wanted and sys.stderr is not None and sys.stderr.isatty():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
