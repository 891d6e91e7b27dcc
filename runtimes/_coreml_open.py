"""Opens a package with Core ML: compiled once, loaded in a child process first, then here."""

from __future__ import annotations

import contextlib
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgediff.errors import UnsupportedError
from edgediff.runtimes import _coreml_child as child
from edgediff.runtimes import _coreml_tools as tools
from edgediff.runtimes._coreml_cache import MODEL, Entry, digest, has_links, writing

_one_at_a_time = threading.Lock()  # compiling takes memory, and graphs are loaded side by side


def opened(package: Path, units: str) -> tuple[Any, Entry]:
    """Return coremltools' compiled model of a ``.mlpackage`` or ``.mlmodelc``, and its entry in the cache.

    A compiled copy that Core ML cannot load is made anew, once; a copy that was just made, or was found
    before to fail on these units, is not, nor is a model that was given compiled.

    Raises:
        UnsupportedError: Core ML refuses it on these units; the message says what to take.
        ResourceError: the cache cannot be written.
    """
    ct = tools.load()
    given = package if package.suffix.lower() == ".mlmodelc" else None
    entry = Entry(digest(package), (tools.system(), str(ct.__version__)), given)
    with _one_at_a_time:
        fresh = not entry.exists()
        if given is not None:
            with writing(entry.path):
                entry.path.mkdir(0o700, parents=True, exist_ok=True)
        elif fresh:
            _make(package, entry, units)
        reason = _tried(entry, units)
        if reason is not None and given is None and not fresh and _failed(units) not in entry.notes():
            entry.drop()
            _make(package, entry, units)
            reason = _tried(entry, units)
        if reason is None:
            try:
                with _marked(entry, units):
                    return ct.models.CompiledMLModel(str(entry.model), ct.ComputeUnit[units]), entry
            except Exception as error:  # coremltools' errors share no base but this
                reason = " ".join(str(error).split())[:300]
        entry.note(**{_failed(units): reason, _loads(units): False})
    raise _refused(package, units, reason)


def _make(package: Path, entry: Entry, units: str) -> None:
    """Put the compiled form of a package into the cache."""
    with entry.making() as fresh:
        warnings.warn(
            f"{package.name}: Core ML compiles it once, which takes minutes for a large network; later "
            "loads take seconds.",
            stacklevel=2,
        )
        source = package
        if has_links(package):  # as in a hub's cache; what Core ML does with links is nowhere said
            source = fresh / package.name
            with writing(fresh):
                shutil.copytree(package, source)
        reason = child.attempt("compile", str(source), str(fresh / MODEL))
        if source is not package:
            shutil.rmtree(source)
        if reason is not None or not (fresh / MODEL).is_dir():
            raise _refused(package, units, reason or "nothing was made")


def _tried(entry: Entry, units: str) -> str | None:
    """None if Core ML loads the entry on these units, else why not; asked once, and after a process ended
    while it loaded it."""
    if entry.notes().get(_loads(units)) is True and not _mark(entry, units).exists():
        return None
    reason = child.attempt("load", str(entry.model), units)
    if reason is None:
        _mark(entry, units).unlink(missing_ok=True)
        entry.note(**{_loads(units): True})
    return reason


def _loads(units: str) -> str:
    return f"loads {units}"


def _failed(units: str) -> str:
    return f"failed {units}"


def _mark(entry: Entry, units: str) -> Path:
    return entry.path / f"loading-{units}"


@contextlib.contextmanager
def _marked(entry: Entry, units: str) -> Iterator[None]:
    """Leave a mark while a model is loaded, which stays where that ends the process."""
    mark = _mark(entry, units)
    with contextlib.suppress(OSError):
        mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def _refused(package: Path, units: str, reason: str | None) -> UnsupportedError:
    return UnsupportedError(
        f"{package}: Core ML cannot load it on {units} ({reason}); take {tools.instead(units)}, or get the "
        "bundle again."
    )
