"""Collects ONNX nodes, constants and stored weights for one graph, and gives them readable names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgediff.export.emit.graph import Kind, Parameter, Value
from edgediff.export.emit.integers import COMPUTED, Coding

Storage = Literal["fp32", "fp16"]
_BITS = {"float32": 32, "float16": 16, "int8": 8, "uint8": 8, "uint4": 4, "int32": 32}


@dataclass(frozen=True, slots=True)
class Stored:
    """A parameter as the graph holds it: what a writer must read, turn and put down.

    ``shape`` is the stored shape; ``transposed`` says that the checkpoint's two axes are swapped. The stored
    numbers are the checkpoint's times ``scale``.

    With a ``coding``, ``piece`` says which part of the coded parameter this is: ``codes`` (int8, or uint8 and
    uint4 where the coding has an offset), their float32 ``scales``, or ``bias``: an int32 bias, in units of
    1 / ``scale`` times the scales of the codes of ``partner``, the layer's weight.
    """

    parameter: Parameter
    initializer: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "float16", "int8", "uint8", "uint4", "int32"]
    transposed: bool = False
    scale: float = 1.0
    coding: Coding | None = None
    piece: Literal["codes", "scales", "bias"] = "codes"
    partner: Parameter | None = None

    @property
    def bytes(self) -> int:
        """The size in the file."""
        return (prod(self.shape) * _BITS[self.dtype] + 7) // 8


_BLOCKED = 21  # the operator set in which DequantizeLinear has blocks


class Builder:
    """One ONNX graph being written. ``codings`` says which parameters are stored as integers, by name."""

    def __init__(self, storage: Storage, codings: Mapping[str, Coding] | None = None) -> None:
        self.storage = storage
        self.codings = {} if codings is None else codings
        self.rows = False  # whether blocks of matrices are widened as rows, in an operator set without blocks
        self.opset = 0  # the least operator set that what was said needs, where that is above the profile's
        self.half = False  # what is added from now on computes in float16
        self.shapes: dict[int, tuple[int, ...]] = {}  # of values, by id, in a graph of fixed extents
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.stored: dict[str, Stored] = {}
        self._scope = ""
        self._taken: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._of: dict[str, Value] = {}
        self._halves: set[str] = set()
        self._cache: dict[tuple[Any, ...], str] = {}

    def enter(self, scope: str) -> None:
        """Name what follows after the module ``scope``."""
        self._scope = "/" + scope.replace(".", "/") if scope else ""

    def name(self, value: Value) -> str:
        """The tensor that holds a value."""
        return self._names[value.id]

    def has(self, value: Value) -> bool:
        """Whether a tensor holds the value already."""
        return value.id in self._names

    def bind(self, value: Value, tensor: str) -> None:
        """Say which tensor holds a value; it has the type that is computed in now."""
        self._names[value.id] = tensor
        self._of[tensor] = value
        if self.half:
            self._halves.add(tensor)

    def absorb(self, value: Value) -> None:
        """Say that a value is never held: its only reader was said together with the node that makes it."""
        self._names[value.id] = ""

    def read(self, value: Value) -> str:
        """The tensor that holds a value, in the type that is computed in now."""
        tensor = self.name(value)
        if not tensor:
            raise ValueError(f"{value} was absorbed and is read")
        if value.kind in (Kind.IDS, Kind.LABEL) or (tensor in self._halves) == self.half:
            return tensor
        return self.once(("cast", tensor), lambda: self.node("Cast", tensor, to=self.type))

    @property
    def type(self) -> int:
        """The ONNX type that is computed in now."""
        return TensorProto.FLOAT16 if self.half else TensorProto.FLOAT

    def known(self, tensor: str) -> tuple[int, ...] | None:
        """The shape of a value's tensor in a graph of fixed extents."""
        value = self._of.get(tensor)
        return None if value is None else self.shapes.get(value.id)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; the name of that output."""
        return self.nodes_out(kind, 1, *inputs, **attributes)[0]

    def nodes_out(
        self, kind: str, outputs: int, *inputs: str, unused: tuple[int, ...] = (), **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs; optional ones in ``unused`` are not asked for."""
        name = self._unique(f"{self._scope}/{kind}")
        made = ["" if i in unused else f"{name}_output_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, made, name=name, **attributes))
        return made

    def floats(self, *values: float) -> str:
        """A float32 constant of one axis; a single number becomes a scalar."""
        return self.constant(np.array(values[0] if len(values) == 1 else values, np.float32))

    def number(self, value: float) -> str:
        """A scalar in the type that is computed in now."""
        return self.constant(np.array(value, np.float16 if self.half else np.float32))

    def numbers(self, value: float, count: int) -> str:
        """The same number ``count`` times, along one axis."""
        return self.constant(np.full(count, value, np.float16 if self.half else np.float32))

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
        known = self.known(tensor)
        if known is not None:
            return self.integers(*known[first:end])
        return self.once(
            ("shape", tensor, first, end), lambda: self.node("Shape", tensor, start=first, end=end)
        )

    def shape(self, tensor: str) -> str:
        """A tensor's whole shape."""
        known = self.known(tensor)
        if known is not None:
            return self.integers(*known)
        return self.once(("shape", tensor), lambda: self.node("Shape", tensor))

    def store(
        self, parameter: Parameter, shape: tuple[int, ...] | None = None, transposed: bool = False
    ) -> Stored:
        """Put a parameter into the file: matrices and kernels in the storage type, vectors in float32."""
        half = self.storage == "fp16" and len(parameter.shape) > 1
        natural = parameter.shape[::-1] if transposed else parameter.shape
        dtype: Literal["float16", "float32"] = "float16" if half else "float32"
        return self._keep(Stored(parameter, parameter.name, shape or natural, dtype, transposed))

    def codes(
        self, parameter: Parameter, transposed: bool = False, packed: bool = False
    ) -> tuple[Stored, Stored]:
        """Put a parameter into the file as integers and their scales.

        ``packed``: as MatMulNBits declares blocks: (outputs, blocks, bytes of a block). Blocks are along the
        input channels, the checkpoint's second axis, and are never transposed.
        """
        coding, shape = self.codings.get(parameter.name, COMPUTED), parameter.shape
        if coding.block == 0:
            held = shape[::-1] if transposed else shape
            codes = Stored(parameter, parameter.name, held, "int8", transposed, coding=coding)
            scales = Stored(
                parameter, f"{parameter.name}.scales", shape[:1], "float32", coding=coding, piece="scales"
            )
            return self._keep(codes), self._keep(scales)
        blocks = (shape[0], shape[1] // coding.block, *shape[2:])
        dtype: Literal["uint4", "uint8"] = "uint4" if coding.bits == 4 and not packed else "uint8"
        held = (*blocks, coding.block * coding.bits // 8) if packed else shape
        codes = Stored(parameter, parameter.name, held, dtype, coding=coding)
        scales = Stored(
            parameter, f"{parameter.name}.scales", blocks, "float32", coding=coding, piece="scales"
        )
        return self._keep(codes), self._keep(scales)

    def _keep(self, stored: Stored) -> Stored:
        if self.stored.setdefault(stored.initializer, stored) != stored:
            raise ValueError(f"{stored.initializer} is used in two forms")
        return stored

    def weight(
        self, parameter: Parameter, shape: tuple[int, ...] | None = None, transposed: bool = False
    ) -> str:
        """The parameter in the type that is computed in now; runtimes fold the cast at load.

        One that is stored as integers is widened while the graph runs, so that memory holds the integers.
        """
        if parameter.name in self.codings:
            return self.once(
                ("widened", parameter.name, self.half), lambda: self._widened(parameter, transposed)
            )
        stored = self.store(parameter, shape, transposed)
        wanted = "float16" if self.half else "float32"
        if stored.dtype == wanted:
            return stored.initializer
        return self.once(("cast", parameter.name, wanted), lambda: self._cast(stored.initializer, wanted))

    def _widened(self, parameter: Parameter, transposed: bool) -> str:
        coding = self.codings[parameter.name]
        codes, scales = (each.initializer for each in self.codes(parameter, transposed))
        if coding.block == 0:
            wide = self.node("DequantizeLinear", codes, scales, axis=1 if transposed else 0)
        else:
            shape = self.stored[scales].shape
            if self.rows and coding.bits == 8 and len(shape) == 2:
                wide = self._widened_rows(parameter, codes, scales, coding)
            else:
                self.opset = _BLOCKED
                zeros = self._zeros(coding, shape)
                wide = self.node("DequantizeLinear", codes, scales, zeros, axis=1, block_size=coding.block)
            if transposed:
                wide = self.node("Transpose", wide, perm=[1, 0])
        return self.node("Cast", wide, to=self.type) if self.half else wide

    def _widened_rows(self, parameter: Parameter, codes: str, scales: str, coding: Coding) -> str:
        """A matrix whose blocks are widened as rows of their own, which every operator set can say.

        ONNX Runtime's CPU provider on x86 refuses graphs of operator set 21 in which signed activations are
        quantized beside a Reshape or a Transpose: it moves the pair, and gives it two types.
        """
        rows = self.node("Reshape", codes, self.integers(-1, coding.block))
        count = prod(parameter.shape) // coding.block
        zeros = self._zeros(coding, (count,))
        wide = self.node(
            "DequantizeLinear", rows, self.node("Reshape", scales, self.integers(-1)), zeros, axis=0
        )
        return self.node("Reshape", wide, self.integers(*parameter.shape))

    def _zeros(self, coding: Coding, shape: tuple[int, ...]) -> str:
        """The zero points of codes with an offset, all the same; layers of one shape share them.

        They are written out: ONNX Runtime before 1.25 makes no 4-bit tensors from others.
        """
        if coding.bits == 8:
            return self.constant(np.full(shape, 1 << 7, np.uint8))

        def make() -> str:
            name = f"constant_{len(self.constants)}"
            packed = np.full((prod(shape) + 1) // 2, 0x88, np.uint8)
            packed[-1] = 0x88 if prod(shape) % 2 == 0 else 0x08
            self.constants.append(
                helper.make_tensor(name, TensorProto.UINT4, shape, packed.tobytes(), raw=True)
            )
            return name

        return self.once(("zeros", shape), make)

    def _cast(self, initializer: str, wanted: str) -> str:
        made = f"{initializer}.{wanted}"
        self.nodes.append(helper.make_node("Cast", [initializer], [made], name=f"{made}/Cast", to=self.type))
        return made

    def _unique(self, name: str) -> str:
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        return name if count == 0 else f"{name}_{count}"


Rewrite = Callable[[Builder], None]
"""Says one or several nodes at once: reads its inputs from the builder and binds what they make."""
