"""The boundary to what executes graphs: one method wide, found by name.

A runtime is a module ``edgediff.runtimes.<name>`` (or an entry point of the group ``edgediff.runtimes``) with
a function ``runtime()`` that returns a :class:`Runtime`. Tests use ``null`` and ``recorded``, which need no
weights.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgediff.bundle import COREML, Bundle, GraphSpec, TensorSpec
from edgediff.errors import InputError, UnsupportedError

Tensor = NDArray[Any]


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """What a loaded graph is and where its nodes run. ``load_seconds`` is the time of loading,
    ``profile`` the form of the graph (``portable``, ``ort-cpu``, ...), ``extents`` the only values that named
    dims may have together (see :class:`~edgediff.bundle.GraphSpec`), ``cache`` what became of its compiled
    form where one can be kept: ``found``, ``made``, or why neither."""

    runtime: str
    device: str
    provider: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: Mapping[str, int] = field(default_factory=dict)
    load_seconds: float = 0.0
    profile: str = ""
    extents: tuple[Mapping[str, int], ...] = ()
    cache: str = ""


class Graph(Protocol):
    """A loaded graph. Calls are not concurrent; :meth:`cancel` may come from any thread or signal handler."""

    @property
    def info(self) -> GraphInfo: ...

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once. Raises CancelledError after :meth:`cancel`, ResourceError when memory runs out."""
        ...

    def cancel(self) -> None:
        """Stop the running call as soon as the runtime can."""
        ...

    def close(self) -> None:
        """Give memory back; the graph cannot be called afterwards."""
        ...


class Runtime(Protocol):
    """Loads graphs on devices.

    Its attribute ``reads`` says which graphs those are, by the ``runtime`` that a manifest names for them;
    None is all of them. Without the attribute it is the runtime's own name. ``fixes`` names the devices that
    are faster where a graph is loaded for one size of its inputs, by the option ``extents``.
    """

    def devices(self) -> Sequence[str]:
        """Return the names that ``device`` may take here and now, the default first."""
        ...

    def load(
        self,
        spec: GraphSpec,
        file: Path,
        device: str,
        options: Mapping[str, Any],
        constants: Mapping[str, Tensor],
    ) -> Graph:
        """Load ``file`` on exactly ``device``. ``constants`` are inputs bound for the life of the graph.

        Raises:
            InputError: the device is unknown.
            UnsupportedError: this machine or build lacks it; the message says what to install.
            BundleError: the file is not a graph that the runtime reads.
        """
        ...


def names() -> tuple[str, ...]:
    """Return the runtimes that can be named: those that ship and those that entry points add."""
    return tuple(sorted(_own() | {point.name for point in _added()}))


def _own() -> set[str]:
    """The runtimes that ship."""
    try:
        package = importlib.import_module("edgediff.runtimes")
    except ImportError:
        return set()
    # pkgutil, not a listing of files: frozen applications keep modules in an archive.
    return {
        module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")
    }


def _added() -> Iterable[Any]:
    """Entry points of other packages; reading them takes longer than loading a small graph."""
    from importlib import metadata

    return metadata.entry_points(group="edgediff.runtimes")


def find(name: str) -> Runtime:
    """Return the runtime ``name``; one that ships is never replaced by another package's.

    Raises:
        InputError: there is no such runtime.
        UnsupportedError: its package is not installed.
    """
    try:
        if name in _own():
            own: Runtime = importlib.import_module(f"edgediff.runtimes.{name}").runtime()
            return own
    except ImportError as error:
        raise UnsupportedError(f"runtime {name!r} cannot be loaded: {error}.") from error
    for point in _added():
        if point.name == name:
            found: Runtime = point.load()()
            return found
    raise InputError(f"runtime {name!r} is unknown; choose one of {', '.join(names())}.")


AUTO = "auto"


def chosen(name: str, bundle: Bundle) -> str:
    """Return the runtime that ``name`` means for a bundle; ``auto`` is that of its graphs, ONNX's first."""
    if name != AUTO:
        return name
    kinds = {spec.runtime for specs in bundle.components.values() for spec in specs}
    return COREML if COREML in kinds and "onnxruntime" not in kinds else "onnxruntime"


def reads(backend: Runtime, name: str) -> str | None:
    """Return which graphs the runtime ``name`` loads; see :class:`Runtime`."""
    found: str | None = getattr(backend, "reads", name)
    return found


def fixes(backend: Runtime) -> Sequence[str]:
    """Return the devices for which graphs are loaded for the sizes of a call; see :class:`Runtime`."""
    found: Sequence[str] = getattr(backend, "fixes", ())
    return found


def constant(array: Tensor) -> Tensor:
    """Return a read-only copy of an array. A graph on a device with memory of its own copies such an input
    there once, and not again while the same array is given."""
    made = np.array(array)
    made.setflags(write=False)
    return made


def fitted(value: float, spec: TensorSpec, batch: int) -> Tensor:
    """Return a scalar such as the timestep in the dtype and rank that a graph's input has.

    Exports differ: a scalar, one number, or one per batch entry; integers or floats.
    """
    dtype = np.dtype(spec.dtype)
    if not spec.dims:
        return np.asarray(value, dtype)
    per_picture = isinstance(spec.dims[0], str) and "batch" in spec.dims[0]
    return np.full((batch if per_picture else 1,), value, dtype)
