"""The loaded half of a bundle: graphs by role, loaded when first needed, each on its own device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgediff import batches, fixing, links
from edgediff import runtime as runtimes
from edgediff.bundle import Bundle, GraphSpec, TextEncoder
from edgediff.errors import CancelledError, EdgediffError, InputError
from edgediff.prompt import Tokenizer
from edgediff.roles import ROLES as ROLES
from edgediff.roles import parse_devices as parse_devices
from edgediff.roles import parse_precision
from edgediff.runtime import Graph, GraphInfo, Tensor

if TYPE_CHECKING:
    from edgediff.memory.budget import Budget

Watch = Callable[[str, str, float, Mapping[str, Tensor]], None]
"""Told, by the thread that did it, when something ended: ``run``, ``verify`` or ``load``; of which role; when
it began, by ``time.perf_counter``; what a run was given."""


class Parts:
    """Graphs of a bundle, loaded on first use after their bytes were compared with the manifest.

    Args:
        bundle: where the graphs are.
        device: a device for all, or ``ROLE=DEVICE,...``.
        runtime: the runtime's name; ``auto`` is that of the bundle's graphs, ONNX Runtime if it has both.
        options: handed to the runtime as they are (``threads``, ...).
        verify: compare sha256 before the first use of each file; that of links is compared always.
        precision: ``fp32`` or ``bf16`` for all, or ``ROLE=PRECISION,...``; the device's own unless given.
        cache: folder for compiled graphs and the digests of files (:mod:`edgediff.cache_folder`); None keeps
            nothing.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        runtime: str = runtimes.AUTO,
        options: Mapping[str, Any] | None = None,
        verify: bool = True,
        precision: str | None = None,
        cache: Path | None = None,
    ) -> None:
        self.bundle = bundle
        self._cache = cache
        self._devices = parse_devices(device)
        self._precisions = parse_precision(precision)
        self._runtime = runtimes.chosen(runtime, bundle)
        self._options = dict(options or {})
        self._verify = verify
        self._size: Mapping[str, int] = bundle.defaults.size
        self._plain = True
        self._fixed: dict[str, dict[str, int]] = {}  # extents that a graph was compiled for
        self._again: set[str] = set()  # roles compiled anew since the last call began
        self._graphs: dict[str, Graph] = {}
        self._receipts: dict[str, links.Receipts] = {}
        self._coming: dict[str, Future[Graph]] = {}
        self._tokenizers: dict[str, Tokenizer] = {}
        self.memory: dict[str, Any] = {}  # what callers keep from call to call, such as encoded prompts
        self.decode_tile: int | None = None  # pixels of a side, where a call leaves tiles to whoever decides
        self._cancelled = False
        self.timings: dict[str, float] = {}
        self.watch: Watch | None = None
        self.budget: Budget | None = None
        self._left: dict[str, GraphInfo] = {}  # what was let go to make room

    def plan_memory(self, asked: Any) -> None:
        """Plan what a checked call loads when, where there is a budget, and let go what it loads otherwise.

        Raises:
            ResourceError: the budget is too little for it.
        """
        if self.budget is None:
            return
        before = self.budget.plan
        plan = self.budget.prepare(asked)
        self.decode_tile = plan.tile
        for role in list(self._graphs):
            if (
                before is None
                or before.keep != plan.keep
                or before.loading.get(role) != plan.loading.get(role)
            ):
                self.release(role)

    def release(self, role: str) -> None:
        """Give a role's graph back; it is loaded again when it is needed."""
        graph = self._graphs.pop(role, None)
        if graph is not None:
            self._left[role] = graph.info
            graph.close()

    def place(self, device: str, precision: str | None) -> None:
        """Say where the graphs that are loaded from now on run; arguments as of the class."""
        self._devices, self._precisions = parse_devices(device), parse_precision(precision)

    def run(self, role: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a role's graph once, loading it if need be. Time is added to ``timings[role]``."""
        graph = self._fitting(role, inputs)
        links.check_not_overwritten(self._receipts.get(role, {}))
        self.check_cancelled()
        began = time.perf_counter()
        outputs = batches.run(graph, inputs)
        self._count(role, began)
        self._tell("run", role, began, inputs)
        self.check_cancelled()  # a cancel that came between the check above and the run is not lost
        return outputs

    def graph(self, role: str) -> Graph:
        """Return a role's graph, loaded."""
        if role not in self._graphs:
            self.check_cancelled()
            began = time.perf_counter()
            if self.budget is not None:
                for other in self.budget.leaving(role, list(self._graphs)):
                    self.release(other)
            coming = self._coming.pop(role, None)
            self._graphs[role] = self._load(role) if coming is None else coming.result()
            self._count("load", began)
        return self._graphs[role]

    def expect(self, size: Mapping[str, int], plain: bool = True) -> None:
        """Say what is drawn next: the result's size, and whether its text has the usual length. Graphs that
        are compiled for fixed sizes are loaded for these."""
        self._size, self._plain = size, plain
        self._again.clear()

    def _fitting(self, role: str, inputs: Mapping[str, Tensor]) -> Graph:
        """A role's graph, loaded again where it was compiled for other sizes than those of ``inputs``."""
        graph = self.graph(role)
        fixed = self._fixed.get(role)
        if fixed:
            specs = self._spec(role).inputs
            if fixing.contradicted(fixed, specs, inputs):
                began = time.perf_counter()
                del self._graphs[role]
                graph.close()  # first: two of them may not fit
                # Whose sizes change within a call (tiles) is compiled for open ones, not over and over.
                extents = {} if role in self._again else fixing.of_inputs(specs, inputs)
                self._again.add(role)
                graph = self._graphs[role] = self._load(role, extents)
                self._count("load", began)
        return graph

    def prefetch(self, roles: Sequence[str]) -> None:
        """Begin to load graphs side by side; an error is raised where the graph is first used."""
        if self.budget is not None:  # it says what is loaded when
            return
        waiting = [r for r in roles if r not in self._graphs and r not in self._coming]
        if len(waiting) > 1:
            pool = ThreadPoolExecutor(len(waiting), thread_name_prefix="edgediff-load")
            self._coming |= {role: pool.submit(self._load, role) for role in waiting}
            pool.shutdown(wait=False)

    def _spec(self, role: str) -> GraphSpec:
        backend = runtimes.find(self._runtime)
        return self.bundle.graph(role, runtimes.reads(backend, self._runtime), self._device(role))

    def _device(self, role: str) -> str:
        return self._devices.get(role, self._devices[""])

    def _load(self, role: str, extents: Mapping[str, int] | None = None) -> Graph:
        device, spec = self._device(role), self._spec(role)
        backend = runtimes.find(self._runtime if self.budget is None else self.budget.runtime)
        options = {**self._options, "cache": self._cache, "digest": self.bundle.digest(spec)}
        precision = self._precisions.get(role, self._precisions.get(""))
        if precision is not None:
            options["precision"] = precision
        if self.budget is not None:
            options |= self.budget.options(role)
        fixed: dict[str, int] = {}
        if "extents" not in options and device in runtimes.fixes(backend):
            size = fixing.expected(self.bundle, role, spec, self._size, self._plain)
            fixed = options["extents"] = dict(size if extents is None else extents)
        began = time.perf_counter()
        receipts = self.bundle.admit(spec, self._verify, self._cache)
        self._tell("verify", role, began)
        began = time.perf_counter()
        graph = backend.load(spec, self.bundle.path / spec.file, device, options, {})
        try:
            links.check_same(receipts)  # what was loaded is what was compared
        except EdgediffError:
            graph.close()
            raise
        self._tell("load", role, began)
        self._receipts[role], self._fixed[role] = receipts, fixed
        return graph

    def tokenizer(self, encoder: TextEncoder | None = None) -> Tokenizer:
        """Return the tokenizer of a text encoder, of the first one unless named."""
        text = self.bundle.text
        if text is None:
            raise InputError(f"{self.bundle.path}: this bundle reads no text.")
        file = text.tokenizer if encoder is None else encoder.tokenizer
        if file not in self._tokenizers:
            began = time.perf_counter()
            receipts = self.bundle.admit_tokenizer(self._verify, file)
            tokenizer = Tokenizer((self.bundle.path / file).parent, text.length)
            links.check_same(receipts)
            self._tokenizers[file] = tokenizer
            self._count("load", began)
        return self._tokenizers[file]

    def infos(self) -> dict[str, GraphInfo]:
        """Return what is loaded and where it runs; what was let go to make room, too."""
        return self._left | {role: graph.info for role, graph in self._graphs.items()}

    def cancel(self) -> None:
        """Stop whatever runs; may be called from any thread."""
        self._cancelled = True
        for graph in list(self._graphs.values()):
            graph.cancel()

    def start(self) -> None:
        """Begin a new result: forget an earlier cancel and earlier timings."""
        self._cancelled = False
        self.timings = {}

    def check_cancelled(self) -> None:
        """Raise CancelledError if :meth:`cancel` was called since :meth:`start`."""
        if self._cancelled:
            raise CancelledError("cancelled: the caller stopped the work; nothing was written.")

    def close(self) -> None:
        """Give all graphs back."""
        for coming in self._coming.values():
            with contextlib.suppress(EdgediffError):  # it was never used, so its error is nobody's
                coming.result().close()
        self._coming.clear()
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()

    def _count(self, name: str, began: float) -> None:
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - began

    def _tell(self, what: str, role: str, began: float, given: Mapping[str, Tensor] | None = None) -> None:
        if self.watch is not None:
            self.watch(what, role, began, {} if given is None else given)
