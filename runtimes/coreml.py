"""Core ML on macOS, through coremltools: packages of a bundle on GPU, Neural Engine or CPU.

Core ML chooses where each operation runs, among the units that it may use, and does not say. A call cannot be
stopped once it computes: :meth:`CoremlGraph.cancel` counts between the pieces of a network and between calls.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgediff.bundle import COREML, GraphSpec, package_of
from edgediff.errors import BundleError, CancelledError, ResourceError, UnsupportedError
from edgediff.manifest import MANIFEST
from edgediff.mil_ports import feature, features
from edgediff.mil_scan import scan
from edgediff.mlpackage import open_package
from edgediff.runtime import GraphInfo, Tensor
from edgediff.runtimes import _coreml_proof as proof
from edgediff.runtimes import _coreml_tools as tools
from edgediff.runtimes._coreml_open import opened


def runtime() -> CoremlRuntime:
    """Return this runtime."""
    return CoremlRuntime()


class Piece(NamedTuple):
    """A loaded package, and the names that it reads; None where only Core ML knows them."""

    model: Any
    inputs: tuple[str, ...] | None


class CoremlRuntime:
    """Loads packages (``.mlpackage``), and compiled ones (``.mlmodelc``) where a bundle lists such.

    A package is compiled on first use and kept in a cache. Then it is loaded in a child process, since Core
    ML ends the process on some faults, and run once on the golden inputs of its bundle.
    """

    reads = COREML

    def devices(self) -> Sequence[str]:
        """Return the devices that can be asked for here.

        Raises:
            UnsupportedError: this is no Mac, or coremltools is missing.
        """
        tools.check_system()
        tools.load()
        return tools.devices()

    def load(
        self,
        spec: GraphSpec,
        file: Path,
        device: str,
        options: Mapping[str, Any],
        constants: Mapping[str, Tensor],
    ) -> CoremlGraph:
        """Load a network's packages. Core ML chooses its threads itself, so the option is not read.

        Raises:
            UnsupportedError: this is no Mac, or Core ML cannot load it on that device.
            BundleError: it is no package, or its inputs and outputs are not those that the manifest lists.
            NumericError: on its first use on a device it gives other numbers than at export.
        """
        del options
        tools.check_system()
        units = tools.units(device, spec.profile)
        began = time.perf_counter()
        folder = file.parents[len(Path(spec.file).parts) - 1]
        pieces, entries = [], []
        for name in (spec.file, *spec.stages):
            package, inputs = _checked(folder, name)
            model, entry = opened(package, units)
            pieces.append(Piece(model, inputs))
            entries.append(entry)
        graph = CoremlGraph(spec, pieces, device, units, time.perf_counter() - began, dict(constants))
        try:
            proof.check(graph, spec, file, units, entries)
        except BaseException:  # Ctrl-C too
            graph.close()
            raise
        return graph


def _checked(folder: Path, name: str) -> tuple[Path, tuple[str, ...] | None]:
    """The package that a file is in, and the names of its inputs, read before Core ML sees it."""
    place = package_of(name)
    if place is None:
        raise BundleError(f"{folder / name}: it is in no package of Core ML; export the bundle again.")
    package = folder / place
    if package.suffix.lower() == ".mlmodelc":
        if not (package / "coremldata.bin").is_file():
            raise UnsupportedError(
                f"{package}: expected a compiled model, there is no coremldata.bin in it; export the bundle "
                "again."
            )
        return package, None
    found = open_package(package, verified=(folder / MANIFEST).exists())
    if found.model != folder / name:
        raise BundleError(f"{folder / name}: it is not the model that its package names; get it again.")
    spec = scan(found)
    tools.check_version(spec.version, str(package))
    return package, tuple(each.name for each in spec.inputs)


class CoremlGraph:
    """A network in one package or several; each piece is fed the call's inputs and what came before it."""

    def __init__(
        self,
        spec: GraphSpec,
        pieces: Sequence[Piece],
        device: str,
        units: str,
        seconds: float,
        constants: dict[str, Tensor],
    ) -> None:
        self._pieces = tuple(pieces)
        self._constants = constants
        self._file = spec.file
        self._running = self._stopped = False
        self._info = GraphInfo(
            runtime=COREML,
            device=device,
            provider=f"CoreML:{units}",
            precision=spec.precision,
            inputs=spec.inputs,
            outputs=spec.outputs,
            load_seconds=seconds,
            profile=spec.profile,
            extents=spec.extents,
        )

    @property
    def info(self) -> GraphInfo:
        return self._info

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once. Raises CancelledError, ResourceError, or BundleError where Core ML refuses the inputs."""
        if not self._pieces:
            raise ResourceError(f"{self._file}: the graph was closed; load the bundle again.")
        given = {**self._constants, **inputs}
        values: dict[str, Tensor] = {}
        for spec in self._info.inputs:
            if spec.name not in given:
                raise BundleError(f"{self._file}: its input {spec.name} is missing; export the bundle again.")
            value = np.ascontiguousarray(given[spec.name], spec.dtype)
            values |= {spec.name: value, feature(spec.name): value}
        made: dict[str, Tensor] = {}
        self._running, self._stopped = True, False
        try:
            for piece in self._pieces:
                if self._stopped:
                    raise CancelledError("cancelled: the caller stopped the work; nothing was written.")
                made |= self._run(piece, {**values, **made})
        finally:
            self._running = False
        names = features(self._info.outputs, made.keys(), self._file)
        return {spec.name: np.asarray(made[names[spec.name]], spec.dtype) for spec in self._info.outputs}

    def _run(self, piece: Piece, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        wanted = piece.inputs
        if wanted is None:
            wanted = tuple(feature(spec.name) for spec in self._info.inputs)
        missing = [name for name in wanted if name not in values]
        if missing:
            raise BundleError(
                f"{self._file}: its package reads {', '.join(missing)}, which the manifest does not list; "
                "export the bundle again."
            )
        try:
            found: dict[str, Tensor] = piece.model.predict({name: values[name] for name in wanted})
        except Exception as error:  # coremltools' errors share no base but this
            text = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split())[:300])
            if isinstance(error, MemoryError) or "memory" in text.lower():
                raise ResourceError(
                    f"{self._file}: memory ran out ({text}); ask for a smaller size, or for another device."
                ) from error
            raise BundleError(f"{self._file}: the run failed ({text}).") from error
        return found

    def cancel(self) -> None:
        """Stop before the next piece of the network; one that computes is not stopped."""
        if self._running:
            self._stopped = True

    def close(self) -> None:
        """Drop the models."""
        self._pieces = ()
