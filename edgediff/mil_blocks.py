"""Functions, blocks and operations of a MIL program; each value is made once, before it is read."""

from __future__ import annotations

import re

from edgediff.mil_program import Block, Constant, Function, Named, Operation, TypeOf
from edgediff.mil_types import entry, once, read_type, text, unknown
from edgediff.mil_values import read_constant
from edgediff.onnx_tensors import shown
from edgediff.protobuf import LENGTH, Fault, Message, Span, tag

MAX_OPERATIONS = 300_000  # in one model; constants are operations too
MAX_DEPTH = 4  # of blocks in operations
MAX_NAMES = 4096  # inputs or outputs of a block or an operation

_ONE, _TWO, _THREE, _FOUR, _FIVE = (tag(n, LENGTH) for n in range(1, 6))
_SHORT = 96  # bytes of strides, axes, epsilons: a program repeats some dozens of them
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,63}")


class Reader:
    """Reads the functions of one model, and counts what it may still hold."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._left = MAX_OPERATIONS
        self._types: dict[bytes, TypeOf] = {}
        self._constants: dict[bytes, Constant] = {}

    def function(self, start: int, end: int) -> Function:
        """Return the Function in a span.

        Raises:
            Fault: it is damaged, or reads what nothing before it makes.
        """
        inputs: list[Named] = []
        opset = ""
        block: tuple[str, Span] | None = None
        for key, a, b in self._message.fields(start, end):
            if key == _ONE:
                inputs.append(self._named(a, b))
            elif key == _TWO:
                opset = text(self._message, a, b)
            elif key == _THREE:
                if block is not None:
                    raise Fault("a function is written for several sets of operations")
                block = entry(self._message, a, b)
            elif key != _FOUR:  # attributes: hints for who compiles it
                raise unknown("a function", key)
        if block is None or block[0] != opset:
            raise Fault("a function has no block for its set of operations")
        scope: set[str] = set()
        _define(scope, inputs)
        return Function(tuple(inputs), opset, self._block(*block[1], scope, 0))

    def _named(self, start: int, end: int) -> Named:
        name, kind = "", None
        for key, a, b in self._message.fields(start, end):
            if key == _ONE:
                name = text(self._message, a, b)
            elif key == _TWO:
                kind = once(kind, (a, b))
            else:
                raise unknown("a value", key)
        if not name or kind is None:
            raise Fault("a value has no name or no type")
        return Named(name, self._type(*kind))

    def _type(self, start: int, end: int) -> TypeOf:
        # A program has some dozen different types and tens of thousands of values.
        raw = self._message.data[start:end]
        found = self._types.get(raw)
        if found is None:
            found = self._types[raw] = read_type(self._message, start, end)
        return found

    def _constant(self, name: str, start: int, end: int) -> Constant:
        if end - start > _SHORT or name == "name":  # each operation has another name
            return read_constant(self._message, start, end, self._type)
        raw = self._message.data[start:end]
        found = self._constants.get(raw)
        if found is None:
            found = self._constants[raw] = read_constant(self._message, start, end, self._type)
        return found

    def _block(self, start: int, end: int, around: set[str], depth: int) -> Block:
        """Return a block; ``around`` are the names that it may read, and an inner one adds none to them."""
        if depth > MAX_DEPTH:
            raise Fault(f"its blocks are nested deeper than {MAX_DEPTH}")
        inputs: list[Named] = []
        outputs: list[str] = []
        spans: list[Span] = []
        for key, a, b in self._message.fields(start, end):
            if key == _ONE:
                inputs.append(self._named(a, b))
            elif key == _TWO:
                outputs.append(text(self._message, a, b))
            elif key == _THREE:
                spans.append((a, b))
                self._left -= 1
                if self._left < 0:
                    raise Fault(f"it has more than the {MAX_OPERATIONS} operations allowed")
            elif key != _FOUR:
                raise unknown("a block", key)
        scope = set(around) if depth else around
        _define(scope, inputs)
        operations = tuple(self._operation(*span, scope, depth) for span in spans)
        if not outputs or len(outputs) > MAX_NAMES or any(name not in scope for name in outputs):
            raise Fault("a block returns nothing, or what nothing in it makes")
        return Block(tuple(inputs), tuple(outputs), operations)

    def _operation(self, start: int, end: int, scope: set[str], depth: int) -> Operation:
        kind = ""
        inputs: dict[str, tuple[str | Constant, ...]] = {}
        outputs: list[Named] = []
        attributes: dict[str, Constant] = {}
        blocks: list[Span] = []
        for key, a, b in self._message.fields(start, end):
            if key == _TWO:
                name, span = entry(self._message, a, b)
                if name in inputs:
                    raise Fault(f"an operation has the input {shown(name.encode())} twice")
                inputs[name] = self._arguments(*span, scope)
            elif key == _FIVE:
                name, span = entry(self._message, a, b)
                if name in attributes:
                    raise Fault(f"an operation has the attribute {shown(name.encode())} twice")
                attributes[name] = self._constant(name, *span)
            elif key == _THREE:
                outputs.append(self._named(a, b))
            elif key == _ONE:
                kind = text(self._message, a, b)
            elif key == _FOUR:
                blocks.append((a, b))
            else:
                raise unknown("an operation", key)
        if not _TYPE.fullmatch(kind):
            raise Fault(f"an operation is of the type {shown(kind.encode())}, which no operation has")
        inner = tuple(self._block(*span, scope, depth + 1) for span in blocks)
        _define(scope, outputs)
        return Operation(kind, inputs, tuple(outputs), attributes, inner)

    def _arguments(self, start: int, end: int, scope: set[str]) -> tuple[str | Constant, ...]:
        found: list[str | Constant] = []
        for key, a, b in self._message.fields(start, end):
            if key != _ONE or len(found) >= MAX_NAMES:
                raise Fault("the arguments of an operation cannot be read, or are too many")
            held = list(self._message.fields(a, b))
            if len(held) != 1 or held[0][0] not in (_ONE, _TWO):
                raise Fault("an argument of an operation is not one value")
            if held[0][0] == _TWO:
                found.append(self._constant("", *held[0][1:]))
                continue
            name = text(self._message, *held[0][1:])
            if name not in scope:
                raise Fault(f"an operation reads {shown(name.encode())}, which nothing before it makes")
            found.append(name)
        return tuple(found)


def _define(scope: set[str], values: list[Named]) -> None:
    if len(values) > MAX_NAMES:
        raise Fault(f"more than {MAX_NAMES} values stand in one place")
    for value in values:
        if value.name in scope:
            raise Fault(f"the value {shown(value.name.encode())} is made twice")
        scope.add(value.name)
