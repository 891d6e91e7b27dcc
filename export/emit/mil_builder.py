"""Collects operations of one MIL function, holds which variable is which value, and names everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import UnsupportedError
from edgediff.export.emit.codes import encode, scales
from edgediff.export.emit.graph import Kind, Parameter, Value
from edgediff.export.emit.integers import COMPUTED, Span
from edgediff.export.emit.mil_form import MilForm
from edgediff.export.emit.mil_model import coremltools
from edgediff.export.emit.mil_names import Names
from edgediff.export.emit.mil_weights import Read, narrowed
from edgediff.export.emit.sizes import Extents

Var = Any  # coremltools' variables have no types of their own
Extent = int | Var
"""A number, or a variable where the program has several sizes."""

_TINIEST = 2.0**-24  # the smallest positive number of float16


class Builder:
    """One function being written.

    ``integers`` has the layers that compute with integers: the spans of what they read, by weight. ``sizes``
    are the extents of all values, by id, once for each resolution. ``taken`` are the names given away.
    """

    def __init__(
        self,
        form: MilForm,
        read: Read,
        integers: Mapping[str, Span],
        sizes: Sequence[Mapping[int, Extents]],
        taken: Names,
    ) -> None:
        self.form = form
        self.half = False  # what is added from now on computes in float16
        self._mb = coremltools().converters.mil.Builder
        self._integers = integers
        self._sizes = sizes
        self._parameter = read
        self._names = taken
        self._scope = ""
        self._vars: dict[int, Var] = {}
        self._turns: dict[int, Callable[[Builder, Var], Var]] = {}
        self._cache: dict[tuple[Any, ...], Var] = {}

    def enter(self, scope: str) -> None:
        """Name what follows after the module ``scope``."""
        self._scope = scope

    def bind(self, value: Value, var: Var, turn: Callable[[Builder, Var], Var] | None = None) -> None:
        """Say which variable holds a value; ``turn`` still has to make the layout that is computed in."""
        self._vars[value.id] = var
        if turn is not None:
            self._turns[value.id] = turn

    def read(self, value: Value) -> Var:
        """The variable that holds a value, in the type and the layout that are computed in now."""
        var = self._vars[value.id]
        typed = var if value.kind in (Kind.IDS, Kind.LABEL) else self.typed(var)
        turn = self._turns.get(value.id)
        return typed if turn is None else self.once(("turned", typed), lambda: turn(self, typed))

    def held(self, value: Value) -> Var:
        """The variable that holds a value, in the type that it was computed in."""
        return self._vars[value.id] if value.id not in self._turns else self.read(value)

    def typed(self, var: Var) -> Var:
        """A variable of numbers in the type that is computed in now."""
        name = np.dtype(self.type).name.replace("float", "fp")
        if name == self.dtype(var):
            return var
        return self.once(("cast", var, name), lambda: self.op("cast", x=var, dtype=name))

    @property
    def type(self) -> type[np.float16] | type[np.float32]:
        """The NumPy type that is computed in now."""
        return np.float16 if self.half else np.float32

    def op(self, kind: str, name: str | None = None, **arguments: Any) -> Var:
        """Add an operation; its variable, or its variables if it has several."""
        chosen = self._names.fresh(self._scope, kind) if name is None else name
        return getattr(self._mb, kind)(name=chosen, **arguments)

    def once(self, key: tuple[Any, ...], make: Callable[[], Var]) -> Var:
        """What ``make`` makes, which is made once."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def number(self, value: float) -> Any:
        """A scalar in the type that is computed in now."""
        return self.type(value)

    def epsilon(self, value: float) -> Any:
        """What is added to a variance. Those of networks are below the normal numbers of float16, but for the
        smallest of all it has them; 0 would divide by the variance of what is constant."""
        return self.number(max(value, _TINIEST) if self.half else value)

    def numbers(self, name: str, array: NDArray[Any]) -> Var:
        """A constant of known numbers in the type that is computed in now; equal ones are shared."""
        typed = array.astype(self.type)
        key = ("numbers", typed.shape, typed.dtype.str, typed.tobytes())
        return self.once(key, lambda: self.op("const", self._names.fresh("", name), val=typed))

    def weight(self, parameter: Parameter, *shape: int) -> Var:
        """The constant of a parameter, in a shape of as many numbers."""

        def make() -> Var:
            numbers = self._parameter(parameter).reshape(shape)
            return self.constant(parameter, narrowed(numbers, parameter.name) if self.half else numbers)

        return self.once(("weight", parameter.name, shape, self.half), make)

    def constant(self, parameter: Parameter, numbers: NDArray[Any]) -> Var:
        """A constant that is made of a parameter and has its name."""
        return self.op("const", self._names.weight(parameter.name), val=numbers)

    def rows(self, parameter: Parameter, count: int) -> Var:
        """The first rows of a table (entries, C) as tokens (1, C, 1, ``count``)."""

        def make() -> Var:
            numbers = self._parameter(parameter)[:count].T[None, :, None]
            numbers = np.ascontiguousarray(numbers)
            return self.constant(parameter, narrowed(numbers, parameter.name) if self.half else numbers)

        return self.once(("rows", parameter.name, count, self.half), make)

    def coded(self, parameter: Parameter, *shape: int) -> Var:
        """The constant of a parameter as integers, one scale for each output channel."""

        def make() -> Var:
            numbers = self._parameter(parameter)
            units = scales(numbers, COMPUTED)
            if self.half:
                # The codes are those of the scale that is stored, of which float16 keeps fewer digits.
                units = np.maximum(units, _TINIEST).astype(np.float16)
            codes = encode(numbers, units.astype(np.float32), COMPUTED).reshape(shape)
            name = self._names.weight(parameter.name)
            if self.form.target == "iOS17":
                zero = np.int8(0)
                return self.op(
                    "constexpr_affine_dequantize", name,
                    quantized_data=codes, zero_point=zero, scale=units, axis=np.int32(0),
                )  # fmt: skip
            spread = units.reshape(-1, *[1] * (len(shape) - 1))
            return self.op("constexpr_blockwise_shift_scale", name, data=codes, scale=spread)

        return self.once(("coded", parameter.name, shape, self.half), make)

    def layer(self, x: Var, parameter: Parameter, *shape: int) -> tuple[Var, Var]:
        """What a layer multiplies: its input and its weight, both as integers if it computes with them."""
        span = self._integers.get(parameter.name)
        if span is None:
            return x, self.weight(parameter, *shape)
        scale = self.number(max(span.signed()[0], _TINIEST))

        def make() -> Var:
            codes = self.op("quantize", input=x, scale=scale, output_dtype="int8")
            return self.op("dequantize", input=codes, scale=scale)

        return self.once(("codes", x, float(scale)), make), self.coded(parameter, *shape)

    def extents(self, value: Value) -> tuple[Extent, ...]:
        """The shape of the variable that holds a value.

        Extents that differ between resolutions are read from the shape of the first variable that has them.
        """
        var = self._vars[value.id]
        channels, several = tuple(var.shape)[:2], zip(*self.places(value), strict=True)
        found: list[Extent] = [int(extent) for extent in channels]
        places = list(several)
        for axis, extents in enumerate(places, len(var.shape) - len(places)):
            found.append(extents[0] if len(set(extents)) == 1 else self._extent(var, axis, extents))
        return tuple(found)

    def places(self, value: Value) -> list[Extents]:
        """The extents of a value in each resolution."""
        return [known[value.id] for known in self._sizes]

    def fixed(self, x: Var) -> tuple[int, ...]:
        """The shape of a variable, in numbers.

        Raises:
            UnsupportedError: the program has several sizes, and this one differs between them.
        """
        if not all(isinstance(extent, int | np.integer) for extent in x.shape):
            raise UnsupportedError(
                f"{self._scope or x.name}: its size must be known for this form, and the program has several "
                "sizes. Export one size for each package."
            )
        return tuple(int(extent) for extent in x.shape)

    def reshape(self, x: Var, *shape: Extent) -> Var:
        """``x`` in another shape; -1 stands for what is left."""
        if all(isinstance(extent, int) for extent in shape):
            known = [int(extent) for extent in x.shape] if self._known(x) else None
            if known is not None and -1 in shape:
                left = prod(known) // -prod(shape)
                shape = tuple(left if extent == -1 else extent for extent in shape)
            return x if known == list(shape) else self.op("reshape", x=x, shape=np.array(shape, np.int32))
        key = ("shape of", *((e,) if isinstance(e, int) else (0, e) for e in shape))
        parts = [np.array([e], np.int32) if isinstance(e, int) else e for e in shape]
        return self.op("reshape", x=x, shape=self.once(key, lambda: self.op("concat", values=parts, axis=0)))

    def _known(self, x: Var) -> bool:
        return all(isinstance(extent, int | np.integer) for extent in x.shape)

    def _extent(self, x: Var, axis: int, extents: tuple[int, ...]) -> Var:
        def make() -> Var:
            shape = self.once(("shape", x), lambda: self.op("shape", x=x))
            return self.op("slice_by_size", x=shape, begin=[axis], size=[1])

        return self.once(("extent", extents), make)

    def dtype(self, var: Var) -> str:
        """The name of the type of a variable's numbers: ``fp16``, ``fp32``, ``int32``, ..."""
        types: str = coremltools().converters.mil.mil.types.builtin_to_string(var.dtype)
        return types
