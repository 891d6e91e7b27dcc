"""ONNX Runtime: the device that was asked for, or an error that says what is missing.

ONNX Runtime itself falls back to the CPU in silence; every session made here is compared with the request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import BundleError, CancelledError, EdgediffError, ResourceError
from edgediff.onnx_scan import scan
from edgediff.runtime import GraphInfo, Tensor
from edgediff.runtimes import _ort_providers as providers
from edgediff.runtimes._ort_files import open_session
from edgediff.threads import available_threads

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}


_FOLDED = "optimization.constant_folding_max_output_size_in_bytes"


def runtime() -> OnnxRuntime:
    """Return this runtime."""
    return OnnxRuntime()


class OnnxRuntime:
    """Loads ``.onnx`` files that :func:`edgediff.onnx_scan.scan` accepts.

    Options: ``threads`` (default: the cores that this process may use); ``precision``, which is ``bf16`` or
    ``fp32`` (the default) on openvino and is measured there, never assumed; ``extents``, which fixes dims of
    the inputs by name, so that providers compile for these alone; ``scan``, which is False only for graphs
    that the caller made itself.
    """

    reads = "onnxruntime"

    def devices(self) -> Sequence[str]:
        """Return the devices for which this machine has a provider, ``cpu`` first."""
        return providers.devices()

    def load(
        self,
        spec: GraphSpec,
        file: Path,
        device: str,
        options: Mapping[str, Any],
        constants: Mapping[str, Tensor],
    ) -> OnnxGraph:
        """Load ``file`` on ``device`` (``auto`` is the CPU)."""
        device = "cpu" if device == "auto" else device
        ort = providers.import_onnxruntime()
        session_options = ort.SessionOptions()
        session_options.log_severity_level = 4  # what goes wrong is raised; nothing is printed beside it
        session_options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # Inference waits on nothing else here: spinning threads only take the core from the caller.
        session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A few bytes of graph may ask for gigabytes at load; what is larger is computed when it is used.
        session_options.add_session_config_entry(_FOLDED, str(256 << 20))
        # Activations beside integer weights stay float where the graph says so; the default rounds them.
        session_options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        # Files are ONNX, as they were scanned, whatever other format their bytes might be read as.
        session_options.add_session_config_entry("session.load_model_format", "ONNX")
        threads = options.get("threads") or available_threads()
        session_options.intra_op_num_threads = threads
        for name, extent in (options.get("extents") or {}).items():
            session_options.add_free_dimension_override_by_name(name, extent)
        arguments = providers.select(ort, device, session_options, options.get("precision"), threads)
        began = time.perf_counter()
        report = scan(file, spec) if options.get("scan") is not False else None
        try:
            session = open_session(ort, file, report, session_options, arguments)
        except EdgediffError:
            raise
        except Exception as error:
            raise _translated(error, f"{file}: cannot be loaded on {device}") from error
        taken = session.get_providers()[0]
        providers.check_taken(device, taken, session)
        if options.get("precision") == "bf16":
            spec = replace(spec, precision=f"{spec.precision}+bf16")
        return OnnxGraph(ort, session, spec, device, time.perf_counter() - began, dict(constants))


class OnnxGraph:
    """A session. On the main thread it runs in a worker, so that Ctrl-C is seen while it computes."""

    def __init__(
        self,
        ort: Any,
        session: Any,
        spec: GraphSpec,
        device: str,
        seconds: float,
        constants: dict[str, Tensor],
    ) -> None:
        self._ort = ort
        self._session = session
        self._constants = constants
        self._file = spec.file
        self._worker: ThreadPoolExecutor | None = None
        self._running: Any = None
        self._info = GraphInfo(
            runtime="onnxruntime",
            device=device,
            provider=providers.provider_of(device, session),
            precision=spec.precision,
            inputs=tuple(_tensor(t) for t in session.get_inputs()),
            outputs=tuple(_tensor(t) for t in session.get_outputs()),
            nodes=providers.nodes_per_provider(session),
            load_seconds=seconds,
            profile=spec.profile,
        )

    @property
    def info(self) -> GraphInfo:
        return self._info

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once. Raises CancelledError, ResourceError, or BundleError where the graph refuses its
        inputs."""
        if self._session is None:
            raise ResourceError(f"{self._file}: the graph was closed; load the bundle again.")
        feeds = {**self._constants, **inputs}
        options = self._ort.RunOptions()
        options.log_severity_level = 4
        self._running = options
        try:
            if threading.current_thread() is not threading.main_thread():
                values = self._session.run(None, feeds, options)
            else:
                values = self._run_beside(feeds, options)
        except (EdgediffError, KeyboardInterrupt):
            raise
        except Exception as error:
            if options.terminate:
                raise CancelledError(
                    "cancelled: the caller stopped the work; nothing was written."
                ) from error
            raise _translated(error, f"{self._file}: the run failed") from error
        finally:
            self._running = None
        return dict(zip([t.name for t in self._info.outputs], values, strict=True))

    def _run_beside(self, feeds: dict[str, Tensor], options: Any) -> list[Tensor]:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="edgediff")
        future: Future[list[Tensor]] = self._worker.submit(self._session.run, None, feeds, options)
        try:
            while True:
                try:
                    return future.result(
                        timeout=0.1
                    )  # a timeout, since Windows delivers no signal to a bare wait
                except TimeoutError:
                    if future.done():  # it ended just as the wait did, or raised this error itself
                        return future.result()
        except KeyboardInterrupt:
            options.terminate = True
            future.exception()
            raise

    def cancel(self) -> None:
        """Ask the running call to stop; ONNX Runtime looks between nodes."""
        running = self._running
        if running is not None:
            running.terminate = True

    def close(self) -> None:
        """Free the session."""
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None
        self._session = None


def _tensor(node: Any) -> TensorSpec:
    dims = tuple(d if isinstance(d, int) else str(d or "?") for d in node.shape)
    if node.type not in _DTYPES:
        raise BundleError(
            f"input or output {node.name!r} has the type {node.type}, which edgediff does not feed."
        )
    return TensorSpec(node.name, _DTYPES[node.type], dims)


def _translated(error: Exception, what: str) -> EdgediffError:
    # Names from the graph stand in it: they are shown, but they do not write on a terminal.
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split())[:500])
    if isinstance(error, MemoryError) or "bad_alloc" in text or "Failed to allocate memory" in text:
        return ResourceError(f"{what}: memory ran out ({text}); ask for a smaller size or batch.")
    return BundleError(f"{what} ({text}).")
