"""ONNX Runtime's own profile of a session, with its times on the clock of ``time.perf_counter_ns``.

The runtime counts microseconds from a moment that it tells on a clock of its own choice: the wall clock on
Linux, a steady one elsewhere. Which one it was shows from what both clocks said before and after that moment.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote


class Profile:
    """One session's profile. It costs time in every node, so it is for traces, never for figures.

    Args:
        folder: where the profile goes; it must exist.
        file: the graph's file in its bundle, which names the profile.
        options: the session's options, which are told to profile.
    """

    def __init__(self, folder: Path, file: str, options: Any) -> None:
        self._folder, self._file = folder, file
        self._session: Any = None
        self._start_ns = 0
        self._before = time.time_ns(), time.perf_counter_ns()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / f"session-{secrets.token_hex(6)}")

    def follow(self, session: Any) -> None:
        """Take the session that was made with the options."""
        self._session = session
        after = time.time_ns(), time.perf_counter_ns()
        told = int(session.get_profiling_start_time_ns())
        self._start_ns = self._before[1]  # were it on neither clock
        if self._before[0] <= told <= after[0]:
            self._start_ns = told - (after[0] - after[1])
        elif self._before[1] <= told <= after[1]:
            self._start_ns = told

    def end(self) -> None:
        """Write the profile as ``FILE.START.json``: the graph's file with its slashes quoted, and the
        nanoseconds on ``time.perf_counter_ns`` from which its microseconds count."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(OSError):  # a folder that is gone costs no picture
                written = Path(session.end_profiling())
                written.rename(self._folder / f"{quote(self._file, safe='')}.{self._start_ns}.json")
