"""Downloads that stand still: the hub's fast transfer is known to hang without an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS = 60.0


@contextmanager
def watched(folder: Path, say: Callable[[str], None] | None, seconds: float = SECONDS) -> Iterator[None]:
    """Say once how to go on if nothing in ``folder`` grows for that long while the block runs."""
    if say is None:
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, say, seconds, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(folder: Path, say: Callable[[str], None], seconds: float, done: threading.Event) -> None:
    before = _state(folder)
    while not done.wait(seconds):
        now = _state(folder)
        if now == before:
            say(
                f"nothing has arrived for {seconds:g} s; if it stays so, interrupt it and try again with "
                "HF_HUB_DISABLE_XET=1"
            )
            return
        before = now


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file."""
    found = {}
    with suppress(OSError):  # not there yet
        for file in folder.iterdir():
            with suppress(OSError):  # renamed meanwhile
                status = file.stat()
                found[file.name] = status.st_size, status.st_mtime_ns
    return found
