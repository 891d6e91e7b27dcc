"""The loaded half of a bundle: graphs by role, loaded when first needed, each on its own device."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from edgediff import batches, links
from edgediff import runtime as runtimes
from edgediff.bundle import Bundle, TextEncoder
from edgediff.errors import CancelledError, EdgediffError, InputError
from edgediff.prompt import Tokenizer
from edgediff.runtime import Graph, GraphInfo, Tensor

ROLES = (
    "text_encoder", "text_encoder_2", "denoiser", "decoder", "encoder", "control", "controlled_denoiser",
)  # fmt: skip
"""What a device can be chosen for; second and further networks that steer are ``control_2``, ...."""


def parse_devices(device: str) -> dict[str, str]:
    """Return device by role from ``cpu`` or ``denoiser=cuda,decoder=cpu``; the key ``""`` is for all others.

    Raises:
        InputError: the text is neither.
    """
    chosen: dict[str, str] = {"": "auto"}
    for item in device.split(","):
        role, equals, name = item.strip().rpartition("=")
        known = role in ROLES or re.fullmatch("control_[2-9]", role) is not None
        if not name or (equals and not known) or role in chosen.keys() - {""}:
            raise InputError(
                f"device {device!r}: expected a device, or ROLE=DEVICE,... with roles {', '.join(ROLES)}."
            )
        chosen[role] = name
    return chosen


class Parts:
    """Graphs of a bundle, loaded on first use after their bytes were compared with the manifest.

    Args:
        bundle: where the graphs are.
        device: a device for all, or ``ROLE=DEVICE,...``.
        runtime: the runtime's name; ``auto`` is that of the bundle's graphs, ONNX Runtime if it has both.
        options: handed to the runtime as they are (``threads``, ...).
        verify: compare sha256 before the first use of each file; that of links is compared always.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        runtime: str = runtimes.AUTO,
        options: Mapping[str, Any] | None = None,
        verify: bool = True,
    ) -> None:
        self.bundle = bundle
        self._devices = parse_devices(device)
        self._runtime = runtimes.chosen(runtime, bundle)
        self._options = dict(options or {})
        self._verify = verify
        self._graphs: dict[str, Graph] = {}
        self._receipts: dict[str, links.Receipts] = {}
        self._coming: dict[str, Future[Graph]] = {}
        self._tokenizers: dict[str, Tokenizer] = {}
        self.memory: dict[str, Any] = {}  # what callers keep from call to call, such as encoded prompts
        self._cancelled = False
        self.timings: dict[str, float] = {}

    def run(self, role: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a role's graph once, loading it if need be. Time is added to ``timings[role]``."""
        graph = self.graph(role)
        links.check_not_overwritten(self._receipts.get(role, {}))
        self.check_cancelled()
        began = time.perf_counter()
        outputs = batches.run(graph, inputs)
        self._count(role, began)
        self.check_cancelled()  # a cancel that came between the check above and the run is not lost
        return outputs

    def graph(self, role: str) -> Graph:
        """Return a role's graph, loaded."""
        if role not in self._graphs:
            self.check_cancelled()
            began = time.perf_counter()
            coming = self._coming.pop(role, None)
            self._graphs[role] = self._load(role) if coming is None else coming.result()
            self._count("load", began)
        return self._graphs[role]

    def prefetch(self, roles: Sequence[str]) -> None:
        """Begin to load graphs side by side; an error is raised where the graph is first used."""
        waiting = [r for r in roles if r not in self._graphs and r not in self._coming]
        if len(waiting) > 1:
            pool = ThreadPoolExecutor(len(waiting), thread_name_prefix="edgediff-load")
            self._coming |= {role: pool.submit(self._load, role) for role in waiting}
            pool.shutdown(wait=False)

    def _load(self, role: str) -> Graph:
        device = self._devices.get(role, self._devices[""])
        backend = runtimes.find(self._runtime)
        spec = self.bundle.graph(role, runtimes.reads(backend, self._runtime), device)
        receipts = self.bundle.admit(spec, self._verify)
        graph = backend.load(spec, self.bundle.path / spec.file, device, self._options, {})
        try:
            links.check_same(receipts)  # what was loaded is what was compared
        except EdgediffError:
            graph.close()
            raise
        self._receipts[role] = receipts
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
        """Return what is loaded and where it runs."""
        return {role: graph.info for role, graph in self._graphs.items()}

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
