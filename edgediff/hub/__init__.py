"""Bundles and models on the Hugging Face hub: named as ``org/name``, kept in the hub client's own cache.

A path that exists is never looked up. What is cached and whole is used as it is, without a request;
``edgediff pull`` asks the hub for what is newer. The client (``huggingface_hub``) is imported when it is
needed, and its variables hold: HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgediff.errors import BundleError, EdgediffError, InputError, ResourceError, UnsupportedError
from edgediff.hub import client as hub_client
from edgediff.hub import errors as hub_errors
from edgediff.hub import files as hub_files
from edgediff.hub import stall as hub_stall
from edgediff.hub.files import INDEX, Kind, Purpose
from edgediff.manifest import MANIFEST, MAX_BYTES, read_json

Say = Callable[[str], None]
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"({_NAME}/{_NAME})(?:@([A-Za-z0-9_][\w./-]{{0,254}}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull would bring: bytes by file, those that the cache lacks, and the commit they are of."""

    repo: str
    revision: str | None
    commit: str
    kind: Kind
    files: Mapping[str, int]
    missing: tuple[str, ...]
    last: str

    @property
    def bytes(self) -> int:
        """All bytes of the wanted files."""
        return sum(self.files.values())

    @property
    def missing_bytes(self) -> int:
        """The bytes still to be downloaded."""
        return sum(self.files[name] for name in self.missing)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What lies in the cache. ``path`` is what may be opened: a folder, or the file of a single-file model.

    It leads through links and must not be resolved: ONNX Runtime refuses weights behind a resolved one.
    """

    path: Path
    repo: str
    commit: str
    kind: Kind


def is_hub_id(text: object) -> bool:
    """Return whether ``text`` names a model on the hub: ``org/name`` or ``org/name@revision``.

    Whatever exists as a path is a path; so is what starts with a dot or a slash. Asks no network.
    """
    if not isinstance(text, str) or os.path.lexists(text):
        return False
    match = _ID.fullmatch(text)
    return match is not None and not re.search(r"--|\.\.|\.git$", match[1]) and ".." not in text


def split_id(text: str, revision: str | None = None) -> tuple[str, str | None]:
    """Return repository and revision of a hub id.

    Raises:
        InputError: it is no hub id, or two revisions are given.
    """
    match = _ID.fullmatch(text)
    if match is None or re.search(r"--|\.\.|\.git$", match[1]) or ".." in text:
        raise InputError(f"{text[:200]!r} is no name on the hub; expected ORG/NAME or ORG/NAME@REVISION.")
    if revision is not None and match[2] is not None and revision != match[2]:
        raise InputError(f"two revisions are given: {match[2]} and {revision}; name one.")
    return match[1], revision if revision is not None else match[2]


def fetch(
    text: str,
    purpose: Purpose = "run",
    *,
    revision: str | None = None,
    variant: str | None = None,
    token: str | None = None,
    say: Say | None = None,
    quiet: bool = False,
) -> Snapshot:
    """Return what a hub id stands for, from the cache if all of it is there, else downloaded.

    Args:
        purpose: ``run`` wants a bundle or ONNX graphs, ``export`` a model's weights.
        variant: weights such as ``fp16``; the fullest unless given.
        token: instead of the one that the client finds.
        say: gets a line on what is downloaded.
        quiet: no progress bars; they are for terminals alone in any case.

    Raises:
        InputError, UnsupportedError, ResourceError, IntegrityError, CancelledError: see ``hub_errors``.
        SourceError: it holds no weights that could be exported.
        BundleError: its manifest is damaged, or names files that are not there.
    """
    repo, revision = split_id(text, revision)
    found = cached(repo, revision, purpose, variant)
    if found is not None:
        return found
    asked = plan(repo, revision, purpose, variant, token)
    return pull(asked, token=token, say=say, quiet=quiet)


def cached(repo: str, revision: str | None, purpose: Purpose, variant: str | None = None) -> Snapshot | None:
    """Return what the cache holds, if it is whole; asks no network."""
    folder = hub_client.cached_folder(repo, revision)
    if folder is None:
        return None
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    kind = hub_files.kind_of(names, purpose)
    try:
        if kind == "bundle":
            wanted = _listed(folder)
            whole = purpose != "export" and wanted <= names
            return Snapshot(folder, repo, folder.name, kind) if whole else None
        index = read_json(folder / INDEX, unbounded=True) if INDEX in names else {}
        chosen = hub_files.choose(repo, names, index, purpose, variant)
    except EdgediffError:  # not for this purpose as far as it is here; the hub knows all of it
        return None
    if not hub_files.complete(names, index, chosen.kind, variant):
        return None
    return _opened(folder, repo, chosen.kind, chosen.last)


def plan(
    repo: str,
    revision: str | None = None,
    purpose: Purpose = "pull",
    variant: str | None = None,
    token: str | None = None,
) -> Plan:
    """Ask the hub what a pull would bring. Writes nothing to the cache. Raises as :func:`fetch` does."""
    client = hub_client.load()
    with hub_errors.translated(repo, revision, token):
        info = client.HfApi().model_info(repo, revision=revision, files_metadata=True, token=token)
        siblings = {s.rfilename: s for s in info.siblings or ()}
        head = next((name for name in (MANIFEST, INDEX) if name in siblings), None)
        with tempfile.TemporaryDirectory() as folder, hub_client.bars(client, False):
            if head is not None:
                _check_size(repo, head, siblings[head].size)
                client.hf_hub_download(repo, head, revision=info.sha, local_dir=folder, token=token)
            if head == MANIFEST:
                if purpose == "export":
                    raise InputError(
                        f"{repo}: this is a bundle already; run it, or export what it was made of."
                    )
                kind: Kind = "bundle"
                names, last = _listed(Path(folder)), MANIFEST
                if names - siblings.keys():
                    lost = sorted(names - siblings.keys())[0]
                    raise BundleError(
                        f"{repo}: its manifest lists {lost}, which is not there; ask its authors."
                    )
            else:
                index = {} if head is None else read_json(Path(folder) / head, unbounded=True)
                if not isinstance(index, dict):
                    raise BundleError(f"{repo}: its {INDEX} is no JSON object; ask its authors.")
                kind, chosen, last = hub_files.choose(repo, siblings.keys(), index, purpose, variant)
                names = set(chosen)
    files = {name: int(siblings[name].size or 0) for name in sorted(names)}
    missing = tuple(
        name for name in files if not hub_client.is_cached(client, repo, str(info.sha), siblings[name])
    )
    return Plan(repo, revision, str(info.sha), kind, files, missing, last)


def pull(asked: Plan, *, token: str | None = None, say: Say | None = None, quiet: bool = False) -> Snapshot:
    """Download what a plan says and return where it lies. Raises as :func:`fetch` does."""
    client = hub_client.load()
    repo, commit = asked.repo, asked.commit
    _check_space(repo, Path(client.constants.HF_HUB_CACHE), asked.missing_bytes)
    if say is not None and asked.missing:
        files = "1 file" if len(asked.missing) == 1 else f"{len(asked.missing)} files"
        say(f"downloading {repo} ({asked.kind}, {_size(asked.missing_bytes)} in {files})")
    blobs = hub_client.repository(client, repo) / "blobs"
    told, bars = hub_errors.translated(repo, asked.revision, token), hub_client.bars(client, not quiet)
    with told, bars, hub_stall.watched(blobs, say):
        # One after the other and in this thread: the client's own download of whole snapshots does not end at
        # an interrupt before its running files do. The manifest or index comes last and under the revision's
        # name: where it lies all is there, and the name leads to it.
        for name in (*(n for n in asked.files if n != asked.last), asked.last):
            at = asked.revision if name == asked.last else commit
            found = Path(client.hf_hub_download(repo, name, revision=at, token=token))
    folder = found.parents[len(Path(asked.last).parts) - 1]
    absent = [name for name in asked.files if not (folder / name).is_file()]
    if absent:
        raise UnsupportedError(
            f"{repo}: it changed during the download ({absent[0]} is of another revision); pull it again."
        )
    return _opened(folder, repo, asked.kind, asked.last)


def _check_size(repo: str, name: str, size: int | None) -> None:
    """Refuse a manifest or an index that nobody would read, before it is downloaded."""
    if size is not None and size > MAX_BYTES:
        raise BundleError(f"{repo}: {name} has {size} bytes, more than the {MAX_BYTES} allowed.")


def _opened(folder: Path, repo: str, kind: Kind, last: str) -> Snapshot:
    return Snapshot(folder / last if kind == "single file" else folder, repo, folder.name, kind)


def _listed(folder: Path) -> set[str]:
    """The manifest and the files that it lists, once it has been read as a bundle's."""
    from edgediff.bundle import Bundle

    return {MANIFEST, *Bundle.open(folder).files}


def _check_space(repo: str, cache: Path, needed: int) -> None:
    here = cache
    while not here.exists() and here != here.parent:
        here = here.parent
    free = shutil.disk_usage(here).free
    if needed > free:
        raise ResourceError(
            f"{repo}: needs {_size(needed)}, and {here} has {_size(free)} left; make room (`edgediff list`, "
            "`edgediff rm`), or set HF_HOME to another disk."
        )


def _size(count: int) -> str:
    """A number of bytes for people: 4.27 GB, 12.0 MB, 3 kB."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{-(-count // 1000)} kB"
