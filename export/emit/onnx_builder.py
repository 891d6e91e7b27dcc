"""Collects ONNX nodes, constants and stored weights for one graph, and gives them readable names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgediff.export.emit.graph import Parameter, Value

Storage = Literal["fp32", "fp16"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A parameter as the graph holds it: what a writer must read, turn and put down.

    ``shape`` is the stored shape; ``transposed`` says that the checkpoint's two axes are swapped. The stored
    numbers are the checkpoint's times ``scale``.
    """

    parameter: Parameter
    initializer: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "float16"]
    transposed: bool = False
    scale: float = 1.0

    @property
    def bytes(self) -> int:
        """The size in the file."""
        return self.parameter.size * (4 if self.dtype == "float32" else 2)


class Builder:
    """One ONNX graph being written."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.stored: dict[str, Stored] = {}
        self._scope = ""
        self._taken: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._cache: dict[tuple[Any, ...], str] = {}

    def enter(self, scope: str) -> None:
        """Name what follows after the module ``scope``."""
        self._scope = "/" + scope.replace(".", "/") if scope else ""

    def name(self, value: Value) -> str:
        """The tensor that holds a value."""
        return self._names[value.id]

    def bind(self, value: Value, tensor: str) -> None:
        """Say which tensor holds a value."""
        self._names[value.id] = tensor

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; the name of that output."""
        return self.nodes_out(kind, 1, *inputs, **attributes)[0]

    def nodes_out(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several outputs."""
        name = self._unique(f"{self._scope}/{kind}")
        made = [f"{name}_output_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, made, name=name, **attributes))
        return made

    def floats(self, *values: float) -> str:
        """A float32 constant of one axis; a single number becomes a scalar."""
        return self.constant(np.array(values[0] if len(values) == 1 else values, np.float32))

    def integers(self, *values: int) -> str:
        """An int64 constant of one axis."""
        return self.constant(np.array(values, np.int64))

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        """A small constant inside the graph; equal ones are shared."""
        key = ("constant", array.dtype.str, array.shape, array.tobytes())

        def make() -> str:
            name = f"constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, name))
            return name

        return self.once(key, make)

    def once(self, key: tuple[Any, ...], make: Callable[[], str]) -> str:
        """What ``make`` gave the first time it was asked under this key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def extent(self, tensor: str, first: int, end: int) -> str:
        """The extents ``first`` to ``end`` of a tensor's shape."""
        return self.once(
            ("shape", tensor, first, end), lambda: self.node("Shape", tensor, start=first, end=end)
        )

    def store(
        self, parameter: Parameter, shape: tuple[int, ...] | None = None, transposed: bool = False
    ) -> Stored:
        """Put a parameter into the file: matrices and kernels in the storage type, vectors in float32."""
        half = self.storage == "fp16" and len(parameter.shape) > 1
        natural = parameter.shape[::-1] if transposed else parameter.shape
        stored = Stored(
            parameter, parameter.name, shape or natural, "float16" if half else "float32", transposed
        )
        if self.stored.setdefault(parameter.name, stored) != stored:
            raise ValueError(f"{parameter.name} is used in two forms")
        return stored

    def weight(
        self, parameter: Parameter, shape: tuple[int, ...] | None = None, transposed: bool = False
    ) -> str:
        """The parameter as a float32 tensor; runtimes fold the cast of a stored half at load."""
        stored = self.store(parameter, shape, transposed)
        if stored.dtype == "float32":
            return stored.initializer
        return self.once(("cast", parameter.name), lambda: self._widen(stored.initializer))

    def _widen(self, initializer: str) -> str:
        made = f"{initializer}.float32"
        cast = helper.make_node(
            "Cast", [initializer], [made], name=f"{initializer}/Cast", to=TensorProto.FLOAT
        )
        self.nodes.append(cast)
        return made

    def _unique(self, name: str) -> str:
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        return name if count == 0 else f"{name}_{count}"
