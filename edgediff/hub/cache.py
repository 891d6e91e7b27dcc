"""What the hub's cache holds of models, and giving its room back. Nothing here asks the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgediff import hub
from edgediff.errors import InputError
from edgediff.hub import client as hub_client
from edgediff.hub import errors as hub_errors
from edgediff.hub import files as hub_files
from edgediff.hub.files import Kind


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached revision of a model. ``bytes`` counts its files, also those that it shares with others."""

    repo: str
    commit: str
    refs: tuple[str, ...]
    kind: Kind
    bytes: int
    path: Path


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal would delete, and the bytes that the disk gets back."""

    repo: str
    commits: tuple[str, ...]
    freed: int
    strategy: Any

    def execute(self) -> None:
        """Delete it.

        Raises:
            ResourceError: something cannot be deleted.
        """
        with hub_errors.translated(self.repo, None):
            self.strategy.execute()


def entries() -> list[Entry]:
    """Return the cached revisions of all models, by name; other kinds of repositories are left out.

    Raises:
        UnsupportedError: the hub's client is not installed.
    """
    found = [
        Entry(
            repo=repo.repo_id,
            commit=revision.commit_hash,
            refs=tuple(sorted(revision.refs)),
            kind=hub_files.kind_of(_names(revision)),
            bytes=revision.size_on_disk,
            path=revision.snapshot_path,
        )
        for repo in _models(_scan())
        for revision in repo.revisions
    ]
    return sorted(found, key=lambda entry: (entry.repo, entry.refs == (), entry.refs, entry.commit))


def removal(text: str, revision: str | None = None) -> Removal:
    """Return what deleting a cached model means: all of it, or one revision (a name, a commit or its start).

    Raises:
        InputError: it is not in the cache.
        UnsupportedError: the hub's client is not installed.
    """
    repo, revision = hub.split_id(text, revision)
    info = _scan()
    revisions = [r for model in _models(info) if model.repo_id == repo for r in model.revisions]
    if not revisions:
        raise InputError(f"{repo}: is not in the hub's cache; `edgediff list` shows what is.")
    if revision is not None:
        named = [r for r in revisions if revision in r.refs]
        chosen = named or [r for r in revisions if len(revision) >= 7 and r.commit_hash.startswith(revision)]
        if len(chosen) != 1:
            have = ", ".join(sorted(", ".join([*sorted(r.refs), r.commit_hash]) for r in revisions))
            raise InputError(f"{repo}: no revision {revision!r} is cached; there are {have}.")
        revisions = chosen
    commits = tuple(sorted(r.commit_hash for r in revisions))
    strategy = info.delete_revisions(*commits)
    return Removal(repo, commits, strategy.expected_freed_size, strategy)


def _scan() -> Any:
    client = hub_client.load()
    try:
        return client.scan_cache_dir()
    except client.errors.CacheNotFound:
        return None  # nothing was ever downloaded


def _models(info: Any) -> list[Any]:
    return [] if info is None else [repo for repo in info.repos if repo.repo_type == "model"]


def _names(revision: Any) -> set[str]:
    """The names of its files inside the snapshot."""
    return {Path(file.file_path).relative_to(revision.snapshot_path).as_posix() for file in revision.files}
