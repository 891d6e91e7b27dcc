"""One program made ready to run: its operations in order, each bound to what it reads, and when values go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgediff.errors import BundleError, CancelledError, EdgediffError, ResourceError, UnsupportedError
from edgediff.mil_blob import Blobs
from edgediff.mil_constants import is_compressed
from edgediff.mil_program import Constant, Function, Named, Operation
from edgediff.runtimes import (  # noqa: F401  (each enters its operations into the table)
    _mil_activations,
    _mil_convolution,
    _mil_elementwise,
    _mil_indexing,
    _mil_norms,
    _mil_parts,
    _mil_patterns,
    _mil_pictures,
    _mil_products,
    _mil_quantized,
    _mil_resizing,
    _mil_shapes,
)
from edgediff.runtimes._mil_constants import Stored, compressed, hold, literal
from edgediff.runtimes._mil_float16 import rounded
from edgediff.runtimes._mil_operations import KNOWN, Array, Given, Kernel, Known, dtype_of, room

Source = str | Stored | None | tuple["str | Stored", ...]


@dataclass(frozen=True, slots=True)
class Step:
    """An operation. ``dead`` are the values that nothing reads after it."""

    where: str
    kernel: Kernel
    sources: tuple[Source, ...]
    outputs: tuple[Named, ...]
    dtypes: tuple[type[Any], ...]
    half: tuple[bool, ...]
    dead: tuple[str, ...]


class Program:
    """A function of a package. Values between operations live only until they are last read."""

    def __init__(self, function: Function, blobs: Blobs, label: str, budget: int) -> None:
        """Make all kernels. ``budget`` bounds the bytes of constants kept ready; ``label`` names the package
        in errors.

        Raises:
            UnsupportedError: an operation, or a form of one, is not known here.
            BundleError: an operation lacks what it needs.
        """
        self.inputs, self.outputs = function.inputs, function.block.outputs
        self.label = label
        self._constants: dict[str, Stored] = {}
        self._types = {named.name: named for named in function.inputs}
        self._blobs = blobs
        steps: list[tuple[Step, Operation]] = []
        for operation in function.block.operations:
            self._types |= {named.name: named for named in operation.outputs}
            if operation.type == "const":
                held = operation.attributes.get("val")
                if held is None or len(operation.outputs) != 1:
                    raise BundleError(f"{label}: a constant has no value; export the package again.")
                self._constants[operation.outputs[0].name] = literal(held, blobs)
            elif is_compressed(operation):
                self._enter_compressed(operation)
            else:
                steps.append((self._step(operation), operation))
        self.steps = _with_deaths([step for step, _ in steps], self.outputs)
        used = {id(source): source for step in self.steps for source in _constants_of(step)}
        hold(used.values(), budget)

    def named(self, name: str) -> Named:
        """A value's name and type."""
        return self._types[name]

    def _enter_compressed(self, operation: Operation) -> None:
        values = {name: literal(held, self._blobs) for name, held in operation.attributes.items()}
        for name, given in operation.inputs.items():
            source = self._source(given[0]) if len(given) == 1 else None
            if not isinstance(source, Stored):
                raise BundleError(f"{self.label}: {operation.type} reads what is no constant.")
            values[name] = source
        values.pop("name", None)
        for place, named in enumerate(operation.outputs):
            self._constants[named.name] = compressed(operation, values, place)

    def _source(self, argument: str | Constant) -> str | Stored:
        if isinstance(argument, Constant):
            return literal(argument, self._blobs)
        return self._constants.get(argument, argument)

    def _step(self, operation: Operation) -> Step:
        name = operation.outputs[0].name if operation.outputs else ""
        where = f"{self.label}: operation {operation.type} {name!r:.80}"
        known = KNOWN.get(operation.type)
        if known is None or operation.blocks:
            raise UnsupportedError(
                f"{where} is not known to the interpreter of ML programs; run the package with Core ML, on a "
                "Mac."
            )
        sources = {key: tuple(map(self._source, given)) for key, given in operation.inputs.items()}
        given = Given(
            operation.type,
            where,
            frozenset(sources),
            {
                key: _reader(values)
                for key, values in sources.items()
                if all(isinstance(value, Stored) for value in values)
            },
            tuple(named.type.dtype for named in operation.outputs),
            tuple(named.type.shape for named in operation.outputs),
        )
        kernel = _made(known, given)
        tensors = {name.rstrip("?*") for name in known.tensors}
        strange = sorted(set(sources) - tensors - given.read)
        if strange:
            raise given.unsupported(f"argument {strange[0]!r}")
        return Step(
            where,
            kernel,
            tuple(_bound(name, sources, where) for name in known.tensors),
            operation.outputs,
            tuple(_held_as(named, where) for named in operation.outputs),
            tuple(_rounds(known, named) for named in operation.outputs),
            (),
        )

    def run(self, feeds: Mapping[str, Array], cancelled: Callable[[], bool]) -> dict[str, Array]:
        """Run once, from values in the types in which they are held.

        Raises:
            CancelledError: ``cancelled`` said so between two operations.
            ResourceError: memory ran out.
            BundleError: an operation cannot be computed on these values.
        """
        values: dict[str, Array] = dict(feeds)
        for step in self.steps:
            if cancelled():
                raise CancelledError("cancelled: the caller stopped the work; nothing was written.")
            try:
                made = step.kernel(*[_fetched(source, values) for source in step.sources])
                self._enter(step, made, values)
            except MemoryError as error:
                raise ResourceError(
                    f"{step.where}: memory ran out; ask for a smaller size or batch."
                ) from error
            except EdgediffError:
                raise
            except Exception as error:
                raise BundleError(f"{step.where}: it cannot be computed ({str(error)[:200]}).") from error
            for name in step.dead:
                del values[name]
        return {name: np.asarray(_fetched(self._constants.get(name, name), values)) for name in self.outputs}

    def _enter(self, step: Step, made: Any, values: dict[str, Array]) -> None:
        arrays = made if isinstance(made, list) else [made]
        for array, named, dtype, half in zip(arrays, step.outputs, step.dtypes, step.half, strict=True):
            value = np.asarray(array)
            if value.dtype != dtype:
                value = value.astype(dtype)
            due = named.type.shape
            if len(due) != value.ndim or any(
                size is not None and size != found for size, found in zip(due, value.shape, strict=True)
            ):
                raise BundleError(
                    f"{step.where}: its result is declared {list(due)} and comes out {list(value.shape)}; "
                    "export the package again."
                )
            values[named.name] = rounded(value) if half else value


def _made(known: Known, given: Given) -> Kernel:
    try:
        return known.make(given)
    except EdgediffError:
        raise
    except (TypeError, ValueError, LookupError, OverflowError, AttributeError) as error:
        raise BundleError(
            f"{given.where}: its parameters are not what they should be ({str(error)[:200]}); export the "
            "package again."
        ) from error


def _reader(values: tuple[str | Stored, ...]) -> Callable[[], Any]:
    def read() -> Any:
        found = [value.raw() for value in values if isinstance(value, Stored)]
        return found[0] if len(found) == 1 else found

    return read


def _bound(name: str, sources: Mapping[str, tuple[str | Stored, ...]], where: str) -> Source:
    """What a kernel's argument is read from."""
    found = sources.get(name.rstrip("?*"), ())
    if name.endswith("*"):
        return found
    if len(found) > 1 or (not found and not name.endswith("?")):
        raise BundleError(
            f"{where} has {len(found)} values as {name.rstrip('?')!r}; export the package again."
        )
    return found[0] if found else None


def _held_as(named: Named, where: str) -> type[Any]:
    dtype = dtype_of(named.type.dtype)
    if dtype is None:
        raise UnsupportedError(
            f"{where}: its result is of {named.type.dtype}, with which the interpreter of ML programs does "
            "not compute. Run the package with Core ML, on a Mac."
        )
    try:
        room(tuple(1 if size is None else size for size in named.type.shape))
    except ResourceError as error:
        raise ResourceError(f"{where}: {error}") from None
    return dtype


def _rounds(known: Known, named: Named) -> bool:
    return named.type.dtype == "float16" and not known.exact


def _fetched(source: Source, values: Mapping[str, Array]) -> Any:
    if isinstance(source, str):
        return values[source]
    if isinstance(source, Stored):
        return source.value()
    if source is None:
        return None
    return tuple(_fetched(one, values) for one in source)


def _flat(step: Step) -> list[str | Stored | None]:
    return [one for source in step.sources for one in (source if isinstance(source, tuple) else (source,))]


def _constants_of(step: Step) -> list[Stored]:
    return [source for source in _flat(step) if isinstance(source, Stored)]


def _with_deaths(steps: list[Step], outputs: tuple[str, ...]) -> tuple[Step, ...]:
    """Note at each step which values are read there for the last time, or never."""
    seen = set(outputs)
    found = []
    for step in reversed(steps):
        names = {source for source in _flat(step) if isinstance(source, str)}
        names |= {named.name for named in step.outputs}
        found.append(
            Step(
                step.where,
                step.kernel,
                step.sources,
                step.outputs,
                step.dtypes,
                step.half,
                tuple(names - seen),
            )
        )
        seen |= names
    return tuple(reversed(found))
