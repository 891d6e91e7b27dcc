"""Tables: what a sampler does, as linear combinations, for anybody who cannot run its function.

Samplers are linear in their tensors, with coefficients that are known before the network is called, apart
from the named operations of :mod:`edgediff.denoise`. So the same function, run on symbolic tensors, writes
down what it would compute, and :func:`run` computes it. ``docs/tables.md`` is the format's page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgediff.denoise import LIMITS, Limit, Network, denoiser
from edgediff.errors import BundleError
from edgediff.manifest import read_json
from edgediff.noise import Noise
from edgediff.sampler import Array, Solver, Step
from edgediff.schedule import Point, Schedule

FORMAT = "edgediff-table"
VERSION = 1
MAX_BYTES = 8 << 20


class Table(NamedTuple):
    """A sampler's work for one schedule: scale a standard normal draw by ``start``, then do ``operations``.

    Each operation is a tuple of a name and its operands; ``registers`` is how many tensors are alive at most.
    """

    sampler: str
    start: float
    registers: int
    operations: tuple[tuple[Any, ...], ...]

    @property
    def steps(self) -> int:
        """Steps that :func:`run` yields."""
        return sum(operation[0] == "step" for operation in self.operations)


def run(table: Table, network: Network, x: Array, noise: Noise) -> Iterator[Step]:
    """Execute a table from ``x``, a standard normal draw times ``table.start``, and yield its steps."""
    held: list[Array] = [x] * table.registers
    done = 0

    def combined(terms: Any) -> Array:
        total: Any = 0
        for register, factor in terms:
            total = total + factor * held[register]
        return np.asarray(total, x.dtype)

    for name, *operands in table.operations:
        if name == "call":
            target, t, terms = operands
            held[target] = network(combined(terms), Point(t, 1.0, 0.0))
        elif name == "sum":
            held[operands[0]] = combined(operands[1])
        elif name == "draw":
            held[operands[0]] = noise.draw(x.shape)
        elif name in LIMITS:
            held[operands[0]] = LIMITS[name](held[operands[1]], *operands[2:])
        elif name == "step":
            yield Step(done, held[operands[0]], held[operands[1]])
            done += 1


class Symbol:
    """A tensor that is not there yet: a linear combination of values, by number."""

    __array_ufunc__ = None  # so that NumPy's scalars leave the arithmetic to this class

    def __init__(self, tape: Tape, terms: Mapping[int, float]) -> None:
        self._tape = tape
        self.terms = {value: factor for value, factor in terms.items() if factor != 0}

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def __add__(self, other: Any) -> Symbol:
        if not isinstance(other, Symbol):
            return NotImplemented
        values = {**self.terms, **other.terms}
        return Symbol(
            self._tape, {v: self.terms.get(v, 0.0) + other.terms.get(v, 0.0) for v in sorted(values)}
        )

    def __mul__(self, factor: Any) -> Symbol:
        if not math.isfinite(factor):
            raise BundleError(f"a table cannot hold the factor {factor}; this schedule has no table.")
        return Symbol(self._tape, {v: float(factor) * f for v, f in self.terms.items()})

    __rmul__ = __mul__

    def __neg__(self) -> Symbol:
        return self * -1.0

    def __sub__(self, other: Any) -> Symbol:
        return self.__add__(-other)

    def __truediv__(self, divisor: Any) -> Symbol:
        return self.__mul__(1.0 / divisor)

    def limited(self, limit: Limit) -> Symbol:
        """Record an operation that has a name."""
        return self._tape.value(limit.name, self._tape.settled(self), *limit.values)


class Tape:
    """What symbolic tensors write down: every value is numbered, and made once."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []  # ("sum", made, terms), ("call", made, t, terms), ...
        self._made = 0

    def value(self, name: str, *operands: Any) -> Symbol:
        """Append an operation and return what it makes."""
        self._made += 1
        self.rows.append((name, self._made, *operands))
        return Symbol(self, {self._made: 1.0})

    def settled(self, symbol: Symbol) -> int:
        """Return the number of a value that equals ``symbol``, computing it if it is a combination.

        The symbol itself becomes that value, so that whoever holds it goes on from there.
        """
        if list(symbol.terms.values()) != [1.0]:
            symbol.terms = self.value("sum", tuple(symbol.terms.items())).terms
        return next(iter(symbol.terms))

    def draw(self, shape: tuple[int, ...]) -> Any:
        """Stand in for a noise stream."""
        del shape
        return self.value("draw")


def record(solver: Solver, schedule: Schedule) -> Table:
    """Run a sampler on symbols and return its table for ``schedule``.

    Raises:
        BundleError: a coefficient is not finite.
    """
    tape = Tape()

    def network(x: Any, at: Point) -> Any:
        return tape.value("call", at.t, tuple(x.terms.items()))

    plain = denoiser(network, solver.conversion)

    def denoise(x: Any, at: Point) -> Any:
        tape.settled(x)
        clean: Any = plain(x, at)
        tape.settled(clean)
        return clean

    start: Any = Symbol(tape, {0: 1.0})
    for step in solver.sampler(denoise, start, schedule, tape):
        x: Any = step.x
        clean: Any = step.clean
        made = tape.settled(x), tape.settled(clean)
        tape.rows.append(("step", *made))
    rows, registers = _allocated(tape.rows)
    return Table(solver.name, float(schedule.start), registers, rows)


def _reads(row: tuple[Any, ...]) -> list[int]:
    name = row[0]
    if name == "step":
        return [row[1], row[2]]
    if name in ("call", "sum"):
        return [value for value, _ in row[-1]]
    return [] if name == "draw" else [row[2]]


def _allocated(rows: list[tuple[Any, ...]]) -> tuple[tuple[tuple[Any, ...], ...], int]:
    """Put values into as few registers as stay alive together; the start is register 0."""
    last = {value: i for i, row in enumerate(rows) for value in _reads(row)}
    place, free, used = {0: 0}, [], 1
    placed = []
    for i, row in enumerate(rows):
        reads = _reads(row)
        where: Callable[[int], int] = place.__getitem__
        name = row[0]
        if name in ("call", "sum"):
            row = (*row[:-1], tuple((where(value), factor) for value, factor in row[-1]))
        elif name == "step":
            row = (name, where(row[1]), where(row[2]))
        elif name != "draw":
            row = (name, row[1], where(row[2]), *row[3:])
        # Operands are read before the result is written, so it may take the place of one that ends here.
        for value in dict.fromkeys(reads):
            if last[value] == i:
                free.append(place.pop(value))
        if name != "step":
            if row[1] not in last and name != "draw":
                continue  # nobody reads it; a draw moves the stream on all the same
            free.sort(reverse=True)
            if not free:
                free.append(used)
                used += 1
            place[row[1]] = free.pop()
            if row[1] not in last:
                free.append(place[row[1]])
            row = (name, place[row[1]], *row[2:])
        placed.append(row)
    return tuple(placed), used


def dumps(table: Table) -> str:
    """Return a table as JSON text, one operation a line."""
    lines = ",\n".join(f"  {json.dumps(operation)}" for operation in table.operations)
    head = {
        "format": FORMAT, "version": VERSION, "sampler": table.sampler, "steps": table.steps,
        "start": table.start, "registers": table.registers,
    }  # fmt: skip
    return json.dumps(head)[:-1] + f', "operations": [\n{lines}\n]}}\n'


def load(path: Path) -> Table:
    """Read a table.

    Raises:
        BundleError: the file is no such table.
    """
    value = read_json(path, MAX_BYTES)
    try:
        return _checked(value)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BundleError(f"{path}: it is no sampler table ({type(error).__name__}: {error}).") from error


_OPERANDS = {"call": 3, "sum": 2, "draw": 1, "step": 2, "clip": 3, "threshold": 4}


def _checked(value: Any) -> Table:
    if value["format"] != FORMAT or value["version"] != VERSION:
        raise ValueError(f"format {value['format']!r:.40}, version {value['version']!r:.20}")
    registers = value["registers"]
    if type(registers) is not int or not 1 <= registers <= 64:
        raise ValueError(f"registers: {registers!r:.20}")

    def register(index: Any) -> int:
        if type(index) is not int or not 0 <= index < registers:
            raise ValueError(f"register {index!r:.20} of {registers}")
        return index

    def number(one: Any) -> float:
        if type(one) not in (int, float):
            raise ValueError(f"{one!r:.40} is no number")
        return float(one)

    operations: list[tuple[Any, ...]] = []
    for name, *operands in value["operations"]:
        if len(operands) != _OPERANDS[name]:
            raise ValueError(f"{name} takes {_OPERANDS[name]} operands, found {len(operands)}")
        if name in ("call", "sum"):
            terms = tuple((register(r), number(f)) for r, f in operands[-1])
            between = tuple(number(t) for t in operands[1:-1])
            operations.append((name, register(operands[0]), *between, terms))
        else:
            count = {"draw": 1, "step": 2}.get(name, 2)
            head = tuple(register(r) for r in operands[:count])
            operations.append((name, *head, *(number(v) for v in operands[count:])))
    table = Table(str(value["sampler"]), number(value["start"]), registers, tuple(operations))
    if table.steps != value["steps"]:
        raise ValueError(f"steps: {value['steps']!r:.20}, counted {table.steps}")
    return table
