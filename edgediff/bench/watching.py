"""What happened in a process and when: spans, told by the parts of a bundle, and memory beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edgediff.bench import resident
from edgediff.parts import Parts
from edgediff.runtime import GraphInfo, Tensor

INTERVAL = 0.02
"""Seconds between two looks at the process's memory."""
_MOST = 4_000  # looks that are kept; beyond, every other one is dropped and the interval doubles
_SPANS = 4_000


class Watching:
    """Spans and memory from its making until :meth:`stop`. ``epoch`` is zero on their clock, in seconds of
    ``time.perf_counter``, which all processes of a machine share.

    ``passes`` are runs of graphs: role, extents of the inputs by name, when, how long. ``loads`` are when and
    how long graphs were compared and loaded; ``infos`` what ran, by role, also what was unloaded since.
    """

    def __init__(self, epoch: float, sampled: bool = True) -> None:
        self.epoch = epoch
        self.spans: list[tuple[str, str, float, float]] = []
        self.passes: list[tuple[str, dict[str, list[int]], float, float]] = []
        self.loads: list[tuple[float, float]] = []
        self.infos: dict[str, GraphInfo] = {}
        self.peaks: dict[str, int] = {}
        self._parts: Parts | None = None
        self.interval = INTERVAL
        self._looks: list[tuple[float, int]] = []
        self._peak: resident.Peak | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if sampled and resident.now() is not None:
            self._thread = threading.Thread(target=self._sample, name="edgediff-memory", daemon=True)
            self._thread.start()

    def over(self, parts: Parts) -> None:
        """Let ``parts`` tell what they do."""
        parts.watch, self._parts = self._told, parts

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A span of this thread."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, began)

    @contextmanager
    def exact_peaks(self) -> Iterator[resident.Peak]:
        """While it lasts, :attr:`peaks` takes the most memory from one span's end to the next one's, which
        costs each of them some 0.1 ms."""
        self._peak = resident.Peak()
        self._peak.begin()
        try:
            yield self._peak
        finally:
            self._peak.end()
            self._peak = None

    def between(self, name: str, began: float, ended: float) -> None:
        """Add a span that lay between two times of ``time.perf_counter``."""
        if len(self.spans) < _SPANS:
            self.spans.append((name, threading.current_thread().name, began - self.epoch, ended - began))

    def add(self, name: str, began: float) -> float:
        """Add a span that ends now, and return its seconds."""
        ended = time.perf_counter()
        took = ended - began
        self.between(name, began, ended)
        if self._peak is not None and self._peak.resets:
            found = self._peak.end()
            if found is not None:
                self.peaks[name] = max(found, self.peaks.get(name, 0))
            self._peak.begin()
        return took

    def stop(self) -> None:
        """Look at the memory no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def told(self) -> dict[str, Any]:
        """Spans, passes and memory as JSON holds them."""
        moments = [(at, rss, self._at(at)) for at, rss in self._looks]
        peaks = dict(self.peaks)
        for _, rss, stage in moments:
            peaks[stage] = max(rss, peaks.get(stage, 0))
        return {
            "spans": self.spans, "passes": self.passes, "moments": moments, "interval": self.interval,
            "peaks": peaks,
        }  # fmt: skip

    def _at(self, at: float) -> str:
        """The innermost span at a time, which is the shortest."""
        over = [(took, name) for name, _, began, took in self.spans if began <= at <= began + took]
        return min(over)[1] if over else ""

    def _told(self, what: str, role: str, began: float, given: Mapping[str, Tensor]) -> None:
        took = self.add(role if what == "run" else f"{what} {role}", began)
        if what != "run":
            self.loads.append((began - self.epoch, took))
            return
        if self._parts is not None:
            self.infos |= {name: info for name, info in self._parts.infos().items() if name == role}
        shapes = {name: list(value.shape) for name, value in given.items()}
        self.passes.append((role, shapes, began - self.epoch, took))

    def _sample(self) -> None:
        while not self._ended.wait(self.interval):
            found = resident.now()
            if found is None:
                return
            self._looks.append((time.perf_counter() - self.epoch, found))
            if len(self._looks) > _MOST:
                del self._looks[::2]
                self.interval *= 2
