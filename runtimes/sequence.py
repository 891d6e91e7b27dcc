"""ONNX Runtime's CPU provider inside a memory budget: a graph in stretches, loaded one after the other.

Each stretch is a graph of its own that maps its weights from the whole's file. The first ones may stay
loaded; the others are loaded when it is their turn and freed after it, in each call. Loading in stretches
also lowers the peak of loading itself, where weights and their packed copies stand side by side. Memory for
values in between comes from the heap and goes back to it: no arena keeps the most that was ever asked for.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from edgediff.bundle import GraphSpec
from edgediff.errors import BundleError, CancelledError, EdgediffError, InputError, ResourceError
from edgediff.memory import heap
from edgediff.memory.cut import ELEMENT_TYPES, Cut, Stretch
from edgediff.onnx_scan import MAX_GRAPH_BYTES, Report, scan
from edgediff.runtime import GraphInfo, Tensor
from edgediff.runtimes import _ort_providers as providers
from edgediff.runtimes._ort_options import session_options
from edgediff.runtimes._ort_stretches import Opener
from edgediff.threads import available_threads

_ELEMENTS = {np.dtype(n): code for n, code in (
    ("float32", 1), ("uint8", 2), ("int8", 3), ("int32", 6), ("int64", 7), ("bool", 9), ("float16", 10),
)}  # fmt: skip
Types = dict[str, tuple[int, Sequence[int | str]]]


def runtime() -> SequenceRuntime:
    """Return this runtime."""
    return SequenceRuntime()


class SequenceRuntime:
    """Options: ``stretch``, the stored bytes of weights that run together (0: all of them); ``resident``,
    how many stretches stay loaded, from the first (None: all); ``ahead``, whether the next one is loaded
    while one runs; ``threads``, ``extents`` and ``scan`` as for ``onnxruntime``."""

    reads = "onnxruntime"

    def devices(self) -> Sequence[str]:
        return ("cpu",)

    def load(
        self,
        spec: GraphSpec,
        file: Path,
        device: str,
        options: Mapping[str, Any],
        constants: Mapping[str, Tensor],
    ) -> SequenceGraph:
        """Scan and cut the file, and load what stays loaded."""
        if device not in ("auto", "cpu"):
            raise InputError(f"device {device!r}: a graph runs in stretches on the cpu alone.")
        if options.get("precision") not in (None, "fp32"):
            raise InputError(
                f"precision {options['precision']!r}: on the cpu in stretches there is fp32 alone."
            )
        ort = providers.import_onnxruntime()
        heap.hold()
        began = time.perf_counter()
        report = scan(file, spec) if options.get("scan") is not False else None
        if file.stat().st_size > MAX_GRAPH_BYTES:
            raise ResourceError(
                f"{file}: its weights are inside the graph, which cannot run in stretches; export the model "
                "again, so that they lie beside it."
            )
        return SequenceGraph(ort, spec, file, report, options, dict(constants), began)


class SequenceGraph:
    """The stretches of a graph, some of them loaded. See :class:`SequenceRuntime`."""

    def __init__(
        self,
        ort: Any,
        spec: GraphSpec,
        file: Path,
        report: Report | None,
        options: Mapping[str, Any],
        constants: dict[str, Tensor],
        began: float,
    ) -> None:
        self._ort = ort
        self._file = spec.file
        self._constants = constants
        self._cut = Cut(file.read_bytes(), options.get("stretch") or 0)
        stretches = self._cut.stretches
        asked = options.get("resident")
        self._resident = len(stretches) if asked is None else min(asked, len(stretches))
        self._ahead = bool(options.get("ahead")) and self._resident < len(stretches) - 1
        threads = options.get("threads") or available_threads()
        self._opener = Opener(
            ort, file, report, lambda: session_options(ort, threads, options.get("extents"))
        )
        self._later = _read_later(stretches, self._cut.outputs)
        self._running: Any = None
        self._cancelled = False
        self._worker: ThreadPoolExecutor | None = None
        self._loader: ThreadPoolExecutor | None = None
        self._sessions: list[Any] = []
        self._nodes: Counter[str] = Counter()
        types: Types = {}
        for stretch in stretches[: self._resident]:
            session = self._opener.open(self._cut.model(stretch, types))
            types |= {port.name: _type(port, self._cut.dims) for port in session.get_outputs()}
            self._nodes.update(providers.nodes_per_provider(session))
            self._sessions.append(session)
        inputs, outputs = (spec.inputs, spec.outputs) if spec.inputs else self._cut.ports()
        self._info = GraphInfo(
            runtime="sequence", device="cpu", provider="CPUExecutionProvider", precision=spec.precision,
            inputs=inputs, outputs=outputs, nodes=dict(self._nodes),
            load_seconds=time.perf_counter() - began, profile=spec.profile, extents=spec.extents,
        )  # fmt: skip

    @property
    def info(self) -> GraphInfo:
        """As of any graph; ``nodes`` counts those of stretches that stay loaded."""
        return self._info

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """What runs together, in order; the first ``resident`` stay loaded."""
        return self._cut.stretches

    @property
    def resident(self) -> int:
        """How many stretches stay loaded."""
        return self._resident

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once. Raises CancelledError, ResourceError, or BundleError where the graph refuses its
        inputs."""
        if self._opener.closed:
            raise ResourceError(f"{self._file}: the graph was closed; load the bundle again.")
        self._cancelled = False
        feeds = {**self._constants, **inputs}
        if threading.current_thread() is not threading.main_thread():
            return self._walk(feeds)
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="edgediff")
        return self._watched(self._worker.submit(self._walk, feeds))

    def _watched(self, future: Future[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Wait, on the main thread, so that Ctrl-C is seen between two looks."""
        try:
            while True:
                try:
                    return future.result(timeout=0.1)
                except TimeoutError:
                    if future.done():  # it ended just as the wait did, or raised this error itself
                        return future.result()
        except KeyboardInterrupt:
            self.cancel()
            future.exception()
            raise

    def _walk(self, alive: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run all stretches; what nothing reads any more is freed as soon as that is known."""
        alive = dict(alive)
        coming: Future[Any] | None = None
        for k, stretch in enumerate(self.stretches):
            self._check()
            if k < self._resident:
                session = self._sessions[k]
            else:
                session = self._open(stretch, alive) if coming is None else coming.result()
                coming = None
            options = self._ort.RunOptions()
            options.log_severity_level = 4
            self._running = options
            if self._ahead and self._resident <= k + 1 < len(self.stretches):
                coming = self._begin(k + 1, alive, session)
            try:
                self._check()  # a cancel that came before there was anything to stop
                values = session.run(list(stretch.makes), {n: alive[n] for n in stretch.reads}, options)
            except EdgediffError:
                raise
            except KeyError as error:
                raise InputError(f"{self._file}: the input {error} is missing.") from None
            except Exception as error:  # the runtime's errors share no base but this
                if options.terminate:
                    raise _stopped() from error
                raise self._opener.translated(error, f"{self._file}: the run failed") from error
            finally:
                self._running = None
            del session
            alive |= zip(stretch.makes, values, strict=True)
            del values
            alive = {name: value for name, value in alive.items() if name in self._later[k]}
        return {port.name: alive[port.name] for port in self._info.outputs}

    def _open(self, stretch: Stretch, alive: Mapping[str, Tensor]) -> Any:
        types = {n: (_element(n, alive[n].dtype), [""] * alive[n].ndim) for n in stretch.reads if n in alive}
        return self._opener.open(self._cut.model(stretch, types))

    def _begin(self, k: int, alive: Mapping[str, Tensor], before: Any) -> Future[Any]:
        """Load stretch ``k`` on another thread, while ``before``, whose outputs it reads, runs."""
        stretch = self.stretches[k]
        types: Types = {port.name: _type(port, self._cut.dims) for port in before.get_outputs()}
        types |= {n: (_element(n, alive[n].dtype), [""] * alive[n].ndim) for n in stretch.reads if n in alive}
        if self._loader is None:
            self._loader = ThreadPoolExecutor(1, thread_name_prefix="edgediff-load")
        return self._loader.submit(lambda: self._opener.open(self._cut.model(stretch, types)))

    def _check(self) -> None:
        if self._cancelled:
            raise _stopped()

    def cancel(self) -> None:
        """Stop the running call; ONNX Runtime looks between nodes."""
        self._cancelled = True
        running = self._running
        if running is not None:
            running.terminate = True

    def close(self) -> None:
        """Free all sessions, and give what they took back to the system."""
        for pool in (self._worker, self._loader):
            if pool is not None:
                pool.shutdown()
        self._worker = self._loader = None
        self._sessions.clear()
        self._opener.close()
        heap.trim()


def _stopped() -> CancelledError:
    return CancelledError("cancelled: the caller stopped the work; nothing was written.")


def _read_later(stretches: Sequence[Stretch], outputs: Sequence[str]) -> list[set[str]]:
    """For each stretch, the values that something after it reads, or that the caller gets."""
    found: list[set[str]] = []
    later = set(outputs)
    for stretch in reversed(stretches):
        found.append(set(later))
        later |= set(stretch.reads)
    return found[::-1]


def _type(port: Any, known: frozenset[str]) -> tuple[int, Sequence[int | str]]:
    """Element type and dims of a stretch's output; names of dims that are not the graph's own say nothing."""
    if port.type not in ELEMENT_TYPES:
        raise BundleError(f"{port.name}: a value of the type {port.type} cannot go from stretch to stretch.")
    dims = [d if isinstance(d, int) or d in known else "" for d in port.shape]
    return ELEMENT_TYPES[port.type], dims


def _element(name: str, dtype: np.dtype[Any]) -> int:
    if dtype not in _ELEMENTS:
        raise InputError(f"{name}: a graph that runs in stretches is not fed {dtype}.")
    return _ELEMENTS[dtype]
