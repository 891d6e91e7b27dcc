"""What `edgediff bench` measured, as one record: a tree of frozen dataclasses that JSON holds as it is.

Times are seconds, memory is bytes, rates are per second. Statistics stand in the JSON beside the values that
they are made of, for other programs; reading takes the values alone. ``record.schema.json`` describes it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = "edgediff-bench/1"


@dataclass(frozen=True, slots=True)
class Samples:
    """Values of one thing in the order in which they were measured; at least one.

    A percentile is the smallest value that so many per cent of all do not exceed (nearest rank): it is
    always a value that was measured, and of few values the highest ones are the largest.
    """

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def min(self) -> float:
        return min(self.values)

    @property
    def max(self) -> float:
        return max(self.values)

    @property
    def p90(self) -> float:
        return self.percentile(90)

    @property
    def p99(self) -> float:
        return self.percentile(99)

    @property
    def spread(self) -> float:
        """The middle half of the values, as a share of their median; 0 for a single one."""
        if self.n < 2 or self.median == 0:
            return 0.0
        return (self.percentile(75) - self.percentile(25)) / self.median

    def percentile(self, percent: float) -> float:
        """Return a percentile (0 to 100) by the nearest rank."""
        rank = math.ceil(percent / 100 * self.n)
        return sorted(self.values)[max(rank, 1) - 1]

    def stored(self) -> dict[str, Any]:
        """As JSON holds it."""
        told = {name: getattr(self, name) for name in ("n", "median", "p90", "p99", "min", "max")}
        return {**told, "values": list(self.values)}


@dataclass(frozen=True, slots=True)
class Machine:
    """What it was measured on. ``packages`` are versions by name; ``load`` the average over one minute.

    ``cores`` are those that the process may use, ``physical_cores`` those of the machine (None: not told).
    """

    processor: str
    features: tuple[str, ...]
    cores: int
    physical_cores: int | None
    affinity: tuple[int, ...] | None
    memory_bytes: int | None
    system: str
    python: str
    packages: Mapping[str, str]
    governor: str | None
    load_before: float | None
    load_after: float | None


@dataclass(frozen=True, slots=True)
class Model:
    """The bundle. ``digest`` is the sha256 of its manifest's list of files, or of the files themselves;
    ``bytes`` are by role, those of the forms that ran, of which ``total_bytes`` counts each file once."""

    name: str
    source: str | None
    digest: str
    format_version: str | None
    scheme: str | None
    bytes: Mapping[str, int]
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, with defaults filled in; ``threads`` is what graphs ran with."""

    prompt: str
    height: int
    width: int
    steps: int
    hops: int
    guidance_scale: float
    batch: int
    sampler: str
    seed: int
    device: str
    runtime: str
    precision: str | None
    threads: int
    runs: int
    warmup: int
    cold: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ran:
    """The graph of a component: where it ran, in which form, and how many nodes each provider took."""

    role: str
    runtime: str
    device: str
    provider: str
    profile: str
    precision: str
    nodes: Mapping[str, int]
    file_bytes: int
    load_seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of one call, a multiply-add counting as two.

    ``by_class`` has ``conv``, ``linear`` and ``attention``; ``source`` says what counted them (``export``:
    the network as it was recorded; ``profile``: a pass of the graph). ``limit_seconds`` is the least time
    that the limits of this machine allow for them, ``limit_by`` says what that is made of.
    """

    flops: int
    by_class: Mapping[str, int]
    source: str
    flops_per_second: float
    limit_seconds: float | None
    limit_percent: float | None
    limit_by: str


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a picture's time, warm: ``tokenize``, a role's graph, ``sampler`` (its own arithmetic),
    ``post`` (pixels of 8 bits and the PNG), ``load`` (where a budget for memory has graphs loaded for each
    picture), ``other`` and ``picture``, the whole.

    ``seconds`` are of one call, of which a picture (or batch) takes ``calls``; ``share`` is what all of them
    are of the whole. ``peak_rss_bytes``: the most memory that the process had while it ran.
    """

    name: str
    what: str
    seconds: Samples
    calls: float
    share: float
    peak_rss_bytes: int | None = None
    ran: Ran | None = None
    work: Work | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """What the machine does at best here. ``kind``: ``gemm``, ``conv`` or ``copy``; ``unit`` is ``FLOP/s`` or
    ``B/s``; ``how`` says what was computed."""

    kind: str
    precision: str
    provider: str
    per_second: float
    unit: str
    how: str


@dataclass(frozen=True, slots=True)
class Cold:
    """New processes from nothing to a picture, caches ``empty`` or ``full``.

    ``stages`` are in the order in which they begin: ``python``, ``import``, ``open``, ``verify ROLE``, ``load
    ROLE`` (roles load side by side), ``picture``, ``total``. ``peak_rss_bytes`` are bytes; None: not told.
    """

    caches: str
    stages: Mapping[str, Samples]
    peak_rss_bytes: Samples | None


@dataclass(frozen=True, slots=True)
class Moment:
    """The process's memory at a time (seconds on the clock of the spans) and the stage that it was in."""

    at: float
    rss_bytes: int
    stage: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the process that ran warm; ``base_bytes`` before the bundle was opened. None: not told."""

    base_bytes: int | None
    peak_bytes: int | None
    by_stage: Mapping[str, int]
    timeline: tuple[Moment, ...]
    interval: float


@dataclass(frozen=True, slots=True)
class Energy:
    """What the processor's own counters say of all warm runs. ``joules`` is None where they cannot be read,
    and ``reason`` then says why."""

    joules: float | None
    pictures: int
    seconds: float
    source: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Span:
    """Something that began and ended in a process (``warm`` or ``cold``). ``start`` counts from when its
    process was started; what encloses it has the same thread and contains its time."""

    name: str
    process: str
    thread: str
    start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Record:
    """All that one `edgediff bench` found. ``warnings`` say what makes its figures doubtful."""

    edgediff_version: str
    made: str
    machine: Machine
    model: Model
    asked: Asked
    components: tuple[Component, ...]
    cold: tuple[Cold, ...]
    memory: Memory
    limits: tuple[Limit, ...]
    energy: Energy
    spans: tuple[Span, ...]
    warnings: tuple[str, ...]
    format: str = FORMAT

    def component(self, name: str) -> Component | None:
        """Return a component by its name, if it was measured."""
        return next((each for each in self.components if each.name == name), None)

    def to_json(self, indent: int | None = None) -> str:
        """Return the record as JSON."""
        return json.dumps(self.stored(), indent=indent, allow_nan=False)

    def stored(self) -> dict[str, Any]:
        """Return the record as JSON holds it."""
        from edgediff.bench.stored import stored

        told: dict[str, Any] = stored(self)
        return told

    @staticmethod
    def from_json(text: str | bytes, where: str = "record") -> Record:
        """Return the record that :meth:`to_json` gave; ``where`` names it in errors.

        Raises:
            InputError: it is no such record, or of another format.
        """
        from edgediff.bench.stored import restored

        return restored(text, where)
