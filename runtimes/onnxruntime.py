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
from edgediff.onnx_scan import Report, scan
from edgediff.runtime import GraphInfo, Tensor
from edgediff.runtimes import _ort_providers as providers
from edgediff.runtimes._ort_binding import APART, Binding
from edgediff.runtimes._ort_files import open_session
from edgediff.runtimes._ort_options import session_options
from edgediff.runtimes._ort_profile import Profile
from edgediff.threads import available_threads

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}


def runtime() -> OnnxRuntime:
    """Return this runtime."""
    return OnnxRuntime()


class OnnxRuntime:
    """Loads ``.onnx`` files that :func:`edgediff.onnx_scan.scan` accepts.

    Options: ``threads`` (default: the cores that this process may use); ``precision``, which is ``bf16`` or
    ``fp32`` (the default) on openvino and is measured there, never assumed; ``extents``, which fixes dims of
    the inputs by name, so that providers compile for these alone; ``scan``, which is False only for graphs
    that the caller made itself; ``cache`` and ``digest``, a folder for what openvino compiles
    (:mod:`edgediff.cache_folder`) and one sha256 for the graph's files; ``profile``, a folder where closing
    the graph leaves ONNX Runtime's profile, which slows every node.
    """

    reads = "onnxruntime"
    fixes = ("openvino",)

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
        threads = options.get("threads") or available_threads()
        extents = dict(options.get("extents") or {})
        folder = options.get("profile")
        profiles: list[Profile] = []
        reports: list[Report] = []
        began = time.perf_counter()

        def opened(hints: Mapping[str, str]) -> Any:
            chosen = session_options(ort, threads, extents)
            profile = None if folder is None else Profile(Path(folder), spec.file, chosen)
            arguments = providers.select(ort, device, chosen, options.get("precision"), threads, hints)
            if options.get("scan") is not False and not reports:
                reports.append(scan(file, spec))
            report = reports[0] if reports else None
            try:
                session = open_session(ort, file, report, chosen, arguments)
            except EdgediffError:
                raise
            except Exception as error:
                raise _translated(error, f"{file}: cannot be loaded on {device}") from error
            providers.check_taken(device, session.get_providers()[0], session)
            profiles.extend([] if profile is None else [profile])
            return session

        cache, digest, kept = options.get("cache"), options.get("digest"), ""
        if device == "openvino" and cache is not None and digest is not None and folder is None:
            from edgediff.runtimes import _ort_compiled as compiled

            what = {"threads": threads, "extents": extents, "precision": options.get("precision")}
            beside = [file.parent / Path(name).name for name in spec.weights]
            weights = sum(each.stat().st_size for each in beside if each.exists())
            session, kept = compiled.session(Path(cache), compiled.facts(digest, what), weights, opened)
        else:
            session = opened({})
        for each in profiles:
            each.follow(session)
        if options.get("precision") == "bf16":
            spec = replace(spec, precision=f"{spec.precision}+bf16")
        seconds = time.perf_counter() - began
        last = profiles[-1] if profiles else None
        return OnnxGraph(ort, session, spec, device, seconds, dict(constants), last, kept)


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
        profile: Profile | None = None,
        cache: str = "",
    ) -> None:
        self._ort = ort
        self._profile = profile
        self._session = session
        self._constants = constants
        self._binding: Binding | None = None
        if device in APART:
            names = [tensor.name for tensor in session.get_outputs()]
            self._binding = Binding(ort, session, device, names, constants)
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
            cache=cache,
        )

    @property
    def info(self) -> GraphInfo:
        return self._info

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once. Raises CancelledError, ResourceError, or BundleError where the graph refuses its
        inputs."""
        if self._session is None:
            raise ResourceError(f"{self._file}: the graph was closed; load the bundle again.")
        feeds = {**self._constants, **inputs} if self._binding is None else dict(inputs)
        options = self._ort.RunOptions()
        options.log_severity_level = 4
        self._running = options
        try:
            if threading.current_thread() is not threading.main_thread():
                values = self._run(feeds, options)
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

    def _run(self, feeds: dict[str, Tensor], options: Any) -> list[Tensor]:
        if self._binding is not None:
            return self._binding.run(feeds, options)
        found: list[Tensor] = self._session.run(None, feeds, options)
        return found

    def _run_beside(self, feeds: dict[str, Tensor], options: Any) -> list[Tensor]:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="edgediff")
        future: Future[list[Tensor]] = self._worker.submit(self._run, feeds, options)
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
        if self._profile is not None:
            self._profile.end()
        self._session = self._binding = None


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
