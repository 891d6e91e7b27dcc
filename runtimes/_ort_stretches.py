"""Opens stretches of a graph, whose weights lie in the whole graph's files."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgediff import links
from edgediff.errors import BundleError, EdgediffError, ResourceError
from edgediff.onnx_scan import Report
from edgediff.runtimes._ort_files import is_apart

_FOLDER = "session.model_external_initializers_file_folder_path"


class Opener:
    """Makes sessions of one graph's stretches, from their bytes.

    Args:
        ort: ONNX Runtime.
        file: the whole graph.
        report: what its scan found.
        options: makes the options of a session; those of memory are set here.
    """

    def __init__(self, ort: Any, file: Path, report: Report | None, options: Callable[[], Any]) -> None:
        self._ort = ort
        self._file = file
        self._apart = [f for f in (report.external_files if report is not None else ()) if is_apart(f, file)]
        self._options = options
        self.closed = False

    def open(self, model: bytes) -> Any:
        """Return the session of a stretch.

        Raises:
            ResourceError: memory ran out. BundleError: ONNX Runtime refuses it.
        """
        options = self._options()
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.add_session_config_entry(_FOLDER, str(self._file.parent))
        with ExitStack() as stack:
            if self._apart:  # ONNX Runtime maps no weights that links put elsewhere: it is given them
                self._give(options, stack)
            try:
                return self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # the runtime's errors share no base but this
                raise self.translated(error, f"{self._file}: a stretch of it cannot be loaded") from error

    def _give(self, options: Any, stack: ExitStack) -> None:
        names, maps, sizes = [], [], []
        for weights in self._apart:
            stream, receipt = links.open_regular(weights)
            stack.enter_context(stream)
            if receipt.bytes:
                mapped = mmap.mmap(stream.fileno(), receipt.bytes, access=mmap.ACCESS_READ)
                maps.append(stack.enter_context(mapped))
                names.append(weights.name)
                sizes.append(receipt.bytes)
        options.add_external_initializers_from_files_in_memory(names, maps, sizes)

    def translated(self, error: Exception, what: str) -> EdgediffError:
        """Return an error of ONNX Runtime as one of ours."""
        # Names from the graph stand in it: they are shown, but they do not write on a terminal.
        text = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split())[:500])
        if isinstance(error, MemoryError) or "bad_alloc" in text or "Failed to allocate memory" in text:
            return ResourceError(f"{what}: memory ran out ({text}); ask for a smaller size or batch.")
        return BundleError(f"{what} ({text}).")

    def close(self) -> None:
        """Say that nothing more is opened."""
        self.closed = True
