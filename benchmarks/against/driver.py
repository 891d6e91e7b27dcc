"""The measuring side: workers as processes that run one at a time."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Any, Self


class WorkerError(Exception):
    """A worker failed, ended, or took too long; the text says which."""


class Worker:
    """A system in a process of its own, stopped whenever it is not asked anything.

    So none of its threads spins while another system is measured.

    ``seconds`` of a reply is what the worker says; ``since_start`` is added: from the start of the process.
    """

    def __init__(self, python: Path, script: Path, options: dict[str, Any], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
        for name in ("OMP_NUM_THREADS", "VIRTUAL_ENV", "PYTHONHOME"):
            environment.pop(name, None)
        self._log: IO[bytes] = log.open("wb")
        self.log = log
        self._began = time.perf_counter()
        self.process = subprocess.Popen(
            [python, script, json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, env=environment, cwd=log.parent, start_new_session=True,
        )  # fmt: skip
        self._rest = b""

    def ask(self, do: str, *, limit: float = 600.0, **what: Any) -> dict[str, Any]:
        """Send one command and return its reply."""
        self._signal(signal.SIGCONT)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):  # the latter: it was closed here
            raise WorkerError(f"{self.log.stem}, {do}: the worker had ended; see {self.log}") from None
        reply = json.loads(self._line(do, limit))
        reply["since_start"] = time.perf_counter() - self._began
        self._signal(signal.SIGSTOP)
        if "error" in reply:
            self.close()
            raise WorkerError(f"{self.log.stem}, {do}: {reply['error']}")
        found: dict[str, Any] = reply
        return found

    def _line(self, do: str, limit: float) -> bytes:
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        end = time.monotonic() + limit
        while b"\n" not in self._rest:
            if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                self.close()
                raise WorkerError(f"{self.log.stem}, {do}: no answer within {limit:.0f} s")
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                self.close()
                raise WorkerError(f"{self.log.stem}, {do}: it ended without an answer; see {self.log}")
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def close(self) -> None:
        """End the process."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _signal(self, which: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, which)


def forget_pages(paths: list[Path]) -> None:
    """Ask the kernel to drop the files' pages from its cache (those that no process has mapped)."""
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file():
                with file.open("rb") as stream:
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
