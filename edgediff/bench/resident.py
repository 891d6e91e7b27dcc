"""How much memory this process has in the machine's RAM, now and at most since a moment of one's choice."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgediff.machine import peak_rss

_STATM, _CLEAR = Path("/proc/self/statm"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5)


def now() -> int | None:
    """Return the resident bytes of this process; None where the system does not say."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return _elsewhere()
    return pages * os.sysconf("SC_PAGE_SIZE")


def _elsewhere() -> int | None:
    """On systems without /proc, as the process's own figures say it; macOS tells the peak alone."""
    return None if sys.platform != "win32" else peak_rss()


class Peak:
    """The most resident memory since :meth:`begin`, exact where Linux lets a process reset its own mark;
    elsewhere the most since the process began."""

    def __init__(self) -> None:
        self.whole = peak_rss()
        self.resets = False

    def begin(self) -> None:
        """Forget the peak so far; :attr:`whole` keeps it."""
        self._keep(peak_rss())
        try:
            _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
            self.resets = True
        except OSError:
            self.resets = False

    def end(self) -> int | None:
        """Return the peak since :meth:`begin`."""
        found = peak_rss()
        self._keep(found)
        return found

    def _keep(self, found: int | None) -> None:
        if found is not None:
            self.whole = found if self.whole is None else max(self.whole, found)
