"""Exports a model in a scheme as a user would, and counts the bytes of its weights in one form."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgediff.bundle import Bundle

CHECK_FAILED = 3
RECEIPT = "measuring it against its float parent"  # what the exporter says when it begins to


@dataclass(frozen=True, slots=True)
class Ran:
    """A process that ended: its exit code, seconds, and what it said on stderr, line by line.

    With each line the seconds since the start and the largest resident set so far, in megabytes (None where
    the system does not tell); the last entry is the end.
    """

    code: int
    seconds: float
    said: list[tuple[str, float, int | None]]

    @property
    def peak_mb(self) -> int | None:
        """The largest resident set that was seen."""
        return max((mb for _, _, mb in self.said if mb is not None), default=None)


def run(command: Sequence[str]) -> Ran:
    """Run a command to its end."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said: list[tuple[str, float, int | None]] = []
    peaks = _Peaks(process.pid)
    for line in process.stderr or ():
        said.append((line.strip(), round(time.perf_counter() - began, 2), peaks.largest))
    code = process.wait()
    seconds = round(time.perf_counter() - began, 2)
    return Ran(code, seconds, [*said, ("", seconds, peaks.stop())])


class _Peaks:
    """The largest resident set of a process and those it started, looked at twenty times a second.

    A child's ``ru_maxrss`` begins at what its parent had when it forked, so the processes themselves are
    asked, by /proc. Their sum counts shared pages more than once.
    """

    def __init__(self, pid: int) -> None:
        self.largest: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pid,), daemon=True)
        self._thread.start()

    def _watch(self, pid: int) -> None:
        while not self._ended.wait(0.05):
            resident = sum(_resident(each) for each in _family(pid))
            if resident:
                self.largest = max(self.largest or 0, round(resident / 1e6))

    def stop(self) -> int | None:
        self._ended.set()
        self._thread.join()
        return self.largest


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in _family(int(child)))]


def _resident(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
    except OSError:  # it has ended
        pass
    return 0


def export(model: Path, out: Path, flags: Sequence[str]) -> dict[str, Any]:
    """Run ``edgediff export onnx`` with ``flags``; where a check refuses the result, again with ``--force``.

    The result: ``seconds``, ``peak_rss_mb``, ``before_receipt`` (both, up to where the receipt begins) and
    ``refused``, what the check said, or None.
    """
    if out.exists():
        shutil.rmtree(out)
    command = [sys.executable, "-m", "edgediff", "export", "onnx", "-m", str(model), str(out), *flags]
    done, refused = run(command), None
    if done.code == CHECK_FAILED:
        refused = _last_words(done)
        done = run([*command, "--force"])
    if done.code != 0:
        raise SystemExit(f"{' '.join(command)} failed with {done.code}: {_last_words(done)}")
    measuring = [(seconds, mb) for line, seconds, mb in done.said if line.startswith(RECEIPT)]
    before = {"seconds": measuring[0][0], "peak_rss_mb": measuring[0][1]} if measuring else None
    told = {"seconds": done.seconds, "peak_rss_mb": done.peak_mb, "before_receipt": before}
    return {**told, "refused": refused}


def _last_words(done: Ran) -> str:
    return "\n".join(line for line, _, _ in done.said[-12:] if line)


def weight_bytes(bundle: Path, device: str = "cpu") -> dict[str, int]:
    """Return the bytes of weights of the form that ``device`` gets, by role.

    Bytes that a graph refers to twice count once; what it holds itself counts too.
    """
    opened = Bundle.open(bundle)
    return {role: _held(bundle / opened.graph(role, None, device).file) for role in opened.components}


def _held(file: Path) -> int:
    import onnx
    from onnx import TensorProto, external_data_helper

    graph = onnx.load(file, load_external_data=False).graph
    apart, inside = set(), 0
    for each in graph.initializer:
        if external_data_helper.uses_external_data(each):
            told = {pair.key: pair.value for pair in each.external_data}
            apart.add((told["location"], int(told.get("offset", 0)), int(told["length"])))
        else:
            bits = 4 if each.data_type in (TensorProto.UINT4, TensorProto.INT4) else 0
            width = onnx.helper.tensor_dtype_to_np_dtype(each.data_type).itemsize * 8
            inside += (prod(each.dims) * (bits or width) + 7) // 8
    return inside + sum(length for _, _, length in apart)
