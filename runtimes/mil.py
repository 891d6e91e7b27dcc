"""Runs Core ML packages without Core ML: an interpreter of ML programs in NumPy, to check packages anywhere.

It follows the definitions of the operations in coremltools, for iOS 15 to iOS 18, and models Core ML's
arithmetic so: a value declared float16 is held as float32 numbers that float16 has; each operation computes
in float32, sums included, and rounds its result once to float16, ties to even, beyond 65504 to infinity.
Core ML itself may join operations and round less, or add up in float16 on the Neural Engine and round more;
what comes out on a device differs in the last bits from what comes out here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import BundleError, InputError, ResourceError
from edgediff.manifest import MANIFEST
from edgediff.mil_blob import Blobs
from edgediff.mil_ports import features
from edgediff.mil_program import Feature, Spec
from edgediff.mil_scan import scan
from edgediff.mlpackage import open_package
from edgediff.runtime import GraphInfo, Tensor
from edgediff.runtimes._mil_float16 import rounded
from edgediff.runtimes._mil_program import Program

PACKAGE = ".mlpackage"
_HELD = 1 << 30  # bytes of constants that are kept ready to compute with


def runtime() -> MilRuntime:
    """Return this runtime."""
    return MilRuntime()


class MilRuntime:
    """Option ``held``: bytes of constants that are kept as float32 between calls (default 1 GiB); the others
    are read from the package each time. Option ``function``: which function of a package with several is run.
    """

    reads = "coreml"

    def devices(self) -> Sequence[str]:
        return ("cpu",)

    def load(
        self,
        spec: GraphSpec,
        file: Path,
        device: str,
        options: Mapping[str, Any],
        constants: Mapping[str, Tensor],
    ) -> MilGraph:
        """Load a package, or the chunks of a network: ``file`` and then ``spec.stages``.

        Raises:
            InputError: the device is not ``cpu`` or ``auto``.
            UnsupportedError: the program has an operation, or a form of one, that is not known here.
            BundleError: a package is damaged.
        """
        if device not in ("auto", "cpu"):
            raise InputError(f"device {device!r}: the runtime mil computes on the cpu alone; ask for cpu.")
        began = time.perf_counter()
        files = [file, *(_root(file, spec) / stage for stage in spec.stages)]
        held = int(options.get("held", _HELD)) // len(files)
        stages: list[Stage] = []
        # Files that a bundle's manifest lists were compared with it, and may be links.
        verified = (_root(file, spec) / MANIFEST).exists()
        try:
            for each in files:
                stages.append(Stage(each, options.get("function"), held, verified))
            return MilGraph(spec, stages, time.perf_counter() - began, dict(constants))
        except BaseException:
            for stage in stages:
                stage.close()
            raise


class Stage:
    """One package: its public side, and its program."""

    def __init__(self, file: Path, function: str | None, held: int, verified: bool) -> None:
        path = file if file.suffix == PACKAGE else file.parents[2]
        package = open_package(path, verified=verified)
        if file not in (path, package.model):
            raise BundleError(
                f"{path}: its manifest names {package.model.name}, not {file}; export it again."
            )
        spec = scan(package)
        if function is not None and function not in spec.functions:
            raise InputError(
                f"{path}: there is no function {function!r}; choose one of {', '.join(spec.functions)}."
            )
        self.path = path
        self.spec: Spec = spec
        self.blobs = Blobs(package.weights)
        try:
            chosen = spec.main if function is None else spec.functions[function]
            self.program = Program(chosen, self.blobs, str(path), held)
        except BaseException:
            self.blobs.close()
            raise

    def close(self) -> None:
        """Close the file of weights."""
        self.blobs.close()


class MilGraph:
    """A loaded package or several; it runs in the caller's thread and can be stopped from another."""

    def __init__(
        self, spec: GraphSpec, stages: list[Stage], seconds: float, constants: dict[str, Tensor]
    ) -> None:
        self._stages, self._constants = stages, constants
        self._cancelled = threading.Event()
        self._file = spec.file
        outputs = {name: stage.program.named(name) for stage in stages for name in stage.program.outputs}
        self._features = {
            feature.name: feature
            for stage in reversed(stages)
            for feature in stage.spec.inputs
            if feature.name not in outputs
        }
        # By the manifest's names, where it has some; the package's names of dotted ones are others.
        self._read = features(spec.inputs, self._features, self._file) or {n: n for n in self._features}
        last = {name: name for name in stages[-1].program.outputs}
        self._made = features(spec.outputs, outputs, self._file) or last
        self._info = GraphInfo(
            runtime="mil",
            device="cpu",
            provider="NumPy interpreter of ML programs",
            precision=spec.precision,
            inputs=spec.inputs or tuple(map(_input, self._features.values())),
            outputs=spec.outputs
            or tuple(
                TensorSpec(name, outputs[name].type.dtype, _dims(name, outputs[name].type.shape))
                for name in last
            ),
            nodes={"NumPy": sum(len(stage.program.steps) for stage in stages)},
            load_seconds=seconds,
            profile=spec.profile,
            extents=spec.extents,
        )

    @property
    def info(self) -> GraphInfo:
        return self._info

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once.

        Raises:
            InputError: an input is missing, unknown, or of another dtype or shape than declared.
            CancelledError, ResourceError, BundleError: see :meth:`Program.run`.
        """
        if not self._stages:
            raise ResourceError(f"{self._file}: the graph was closed; load the bundle again.")
        self._cancelled.clear()
        given = {**self._constants, **inputs}
        values = {self._read.get(name, name): value for name, value in given.items()}
        for feature in self._features.values():
            _check(self._file, feature, values.get(feature.name))
        for name in values:
            if name not in self._features:
                raise InputError(
                    f"{self._file}: there is no input {name!r}; it takes {', '.join(self._features)}."
                )
        with np.errstate(all="ignore"):  # infinities and NaN are results here, as on a device
            for stage in self._stages:
                feeds = {
                    named.name: _fed(values[named.name], named.type.dtype) for named in stage.program.inputs
                }
                values |= stage.program.run(feeds, self._cancelled.is_set)
        return {
            # never a view of an input or a constant
            tensor.name: np.array(values[self._made[tensor.name]], tensor.dtype, order="C")
            for tensor in self._info.outputs
        }

    def cancel(self) -> None:
        """Stop the running call before its next operation."""
        self._cancelled.set()

    def close(self) -> None:
        """Close the packages and forget their constants."""
        for stage in self._stages:
            stage.close()
        self._stages = []


def _root(file: Path, spec: GraphSpec) -> Path:
    """The bundle's folder: ``file`` without the path that the manifest gives it."""
    inside = Path(spec.file).parts
    if file.suffix == PACKAGE and not spec.file.endswith(PACKAGE):
        inside = inside[: 1 + next((i for i, part in enumerate(inside) if part.endswith(PACKAGE)), 0)]
    return file.parents[len(inside) - 1]


def _dims(name: str, shape: Sequence[int | None]) -> tuple[int | str, ...]:
    return tuple(f"{name}_{axis}" if size is None else size for axis, size in enumerate(shape))


def _input(feature: Feature) -> TensorSpec:
    """Axes that differ between the shapes that an input takes have names."""
    shape: list[int | None] = list(feature.shape)
    for axis in range(len(shape)):
        if len({known[axis] for known in feature.shapes if len(known) == len(shape)}) > 1:
            shape[axis] = None
    for axis, (low, high) in enumerate(feature.ranges[: len(shape)]):
        if low != high:
            shape[axis] = None
    return TensorSpec(feature.name, feature.dtype, _dims(feature.name, shape))


def _check(file: str, feature: Feature, value: Tensor | None) -> None:
    """Refuse what Core ML would refuse."""
    found = "nothing" if value is None else f"{value.dtype} {list(value.shape)}"
    shapes = feature.shapes or (feature.shape,)
    fits = value is not None and value.dtype == feature.dtype
    if fits and value is not None:
        if feature.ranges:
            fits = len(feature.ranges) == value.ndim and all(
                low <= size and (high < 0 or size <= high)
                for size, (low, high) in zip(value.shape, feature.ranges, strict=True)
            )
        else:
            fits = value.shape in shapes
    if not fits:
        raise InputError(
            f"{file}: input {feature.name!r}: expected {feature.dtype} "
            f"{' or '.join(str(list(shape)) for shape in shapes[:8])}, found {found}."
        )


def _fed(value: Tensor, dtype: str) -> Tensor:
    """An input in the type in which the program holds it."""
    if dtype == "float16":
        return rounded(value.astype(np.float32))
    return value


__all__ = ["MilGraph", "MilRuntime", "runtime"]
