"""A record against an older one: what became slower or larger, with the noise of both taken into account."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgediff.bench.against_ratio import LEAST, Ratio, ratio
from edgediff.bench.record import Asked, Machine, Record, Samples
from edgediff.compare.units import seconds, shortened, size, visible
from edgediff.errors import InputError

THRESHOLD = 10.0
"""Per cent."""
_NAMES = {"seconds": ("slower", "faster"), "bytes": ("larger", "smaller")}
_SMALL = 0.01  # of a picture
# Of what was asked for, all but what changes no amount of work.
_SETTINGS = (
    "height", "width", "steps", "hops", "guidance_scale", "batch", "sampler", "device", "runtime",
    "precision", "threads", "options",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both records. ``unit`` is ``seconds`` or ``bytes``, ``verdict`` one of ``slower``,
    ``faster`` (for bytes ``larger``, ``smaller``), ``same``, ``undecided``, ``too small to count``."""

    name: str
    unit: str
    old: float
    new: float
    ratio: Ratio
    verdict: str

    @property
    def worse(self) -> bool:
        """Whether it counts against the new record."""
        return self.verdict in ("slower", "larger")

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "name": self.name, "unit": self.unit, "old": self.old, "new": self.new,
            "ratio": self.ratio.value, "low": self.ratio.low, "high": self.ratio.high,
            "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """All figures that both records have. ``notes`` say what else differs."""

    threshold: float
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def slower(self) -> bool:
        """Whether anything became slower or larger by more than the threshold."""
        return any(row.worse for row in self.rows)

    @property
    def rule(self) -> str:
        """What the verdicts mean."""
        return (
            "A time counts as slower where the whole 95 % interval of the ratio of medians (bootstrap over "
            f"the samples) lies above {1 + self.threshold / 100:g}, as faster where it lies below "
            f"{1 / (1 + self.threshold / 100):.3g}, as the same where it lies between; else, or with fewer "
            f"than {LEAST} samples on a side, it is undecided. What is under {100 * _SMALL:g} % of a picture "
            "in both does not count. A memory figure has no interval; its ratio counts."
        )

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "threshold_percent": self.threshold,
            "slower": self.slower,
            "rule": self.rule,
            "rows": [row.record() for row in self.rows],
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """Return the figures in columns, then the rule and the notes, as plain text."""
        lines = [("", "old", "new", "ratio", "95 % interval", "")]
        for row in self.rows:
            shown = seconds if row.unit == "seconds" else size
            r = row.ratio
            reach = f"{r.low:.3f} to {r.high:.3f}" if r.known else ""
            lines.append(
                (visible(row.name), shown(row.old), shown(row.new), f"{r.value:.3f}", reach, row.verdict)
            )
        wide = [max(len(each[i]) for each in lines) for i in range(len(lines[0]))]
        columns = ("  ".join(t.ljust(w) for t, w in zip(each, wide, strict=True)).rstrip() for each in lines)
        return "\n".join([*columns, self.rule, *(f"note: {each}" for each in self.notes)])


def check(
    old: Record,
    machine: Machine,
    digest: str,
    asked: Asked,
    threshold: float = THRESHOLD,
    force: bool = False,
) -> list[str]:
    """Return how an older record differs from what is measured, or is going to be; empty unless ``force``.

    Raises:
        InputError: the threshold is no number of 0 or more, or machines, bundles or settings differ.
    """
    if not 0 <= threshold < float("inf"):
        raise InputError(f"threshold {threshold}: expected per cent, 0 or more.")
    differs = list(_differences(old, machine, digest, asked))
    if differs and not force:
        raise InputError(
            f"against the record of {old.made}: it measured something else ({'; '.join(differs)}). Measure "
            "both alike, or allow --force."
        )
    return differs


def compared(old: Record, new: Record, threshold: float = THRESHOLD, force: bool = False) -> Comparison:
    """Compare seconds per call of each component, of the whole and of cold starts, and peak memory.

    Args:
        threshold: per cent by which a figure must be worse to count.
        force: compare whatever differs in machine, bundle or settings, and say so in the notes.

    Raises:
        InputError: the threshold is no number of 0 or more; machines, bundles or settings differ; or no
            figure is in both.
    """
    differs = check(old, new.machine, new.model.digest, new.asked, threshold, force)
    rows = tuple(_rows(old, new, threshold / 100))
    if not rows:
        raise InputError(f"against the record of {old.made}: the two have no figure in common.")
    notes = [f"NOT THE SAME: {each}" for each in differs]
    return Comparison(threshold, rows, (*notes, *_remarks(old, new, threshold / 100)))


def _rows(old: Record, new: Record, threshold: float) -> Iterator[Row]:
    before, after = _times(old), _times(new)
    for name in (name for name in before if name in after):
        a, b = before[name], after[name]
        if a.median > 0:
            found = ratio(a.values, b.values)
            small = max(_share(old, name), _share(new, name)) < _SMALL
            verdict = "too small to count" if small else _verdict(found, "seconds", threshold)
            yield Row(name, "seconds", a.median, b.median, found, verdict)
    held, holds = _sizes(old), _sizes(new)
    for name in (name for name in held if name in holds):
        r = holds[name] / held[name]
        found = Ratio(r, r, r, known=False)
        yield Row(name, "bytes", held[name], holds[name], found, _verdict(found, "bytes", threshold))


def _verdict(found: Ratio, unit: str, threshold: float) -> str:
    worse, better = _NAMES[unit]
    if unit == "seconds" and not found.known:
        return "undecided"
    if found.low > 1 + threshold:
        return worse
    if found.high < 1 / (1 + threshold):
        return better
    return "same" if found.low >= 1 / (1 + threshold) and found.high <= 1 + threshold else "undecided"


def _share(record: Record, name: str) -> float:
    """A component's share of a picture; all of it for what is no component."""
    component = record.component(name)
    return 1.0 if component is None else component.share


def _times(record: Record) -> dict[str, Samples]:
    found = {each.name: each.seconds for each in record.components}
    for cold in record.cold:
        if "total" in cold.stages:
            found[f"cold start, caches {cold.caches}"] = cold.stages["total"]
    return found


def _sizes(record: Record) -> dict[str, float]:
    found: dict[str, float] = {}
    if record.memory.peak_bytes:
        found["peak memory, warm"] = float(record.memory.peak_bytes)
    for cold in record.cold:
        if cold.peak_rss_bytes is not None and cold.peak_rss_bytes.median > 0:
            found[f"peak memory, cold, caches {cold.caches}"] = cold.peak_rss_bytes.median
    return found


def _differences(old: Record, machine: Machine, digest: str, asked: Asked) -> Iterator[str]:
    """What makes a comparison meaningless."""
    pairs: Mapping[str, tuple[Any, Any]] = {
        "processor": (old.machine.processor, machine.processor),
        "cores": (old.machine.cores, machine.cores),
        "system": (old.machine.system, machine.system),
        "bundle": (old.model.digest, digest),
        **{name: (getattr(old.asked, name), getattr(asked, name)) for name in _SETTINGS},
    }
    for name, (a, b) in pairs.items():
        if a != b:
            yield f"{name} {_plain(a)} then, {_plain(b)} now"


def _remarks(old: Record, new: Record, threshold: float) -> Iterator[str]:
    """What the reader should know beside the figures."""
    for name in sorted({*old.machine.packages, *new.machine.packages}):
        a, b = old.machine.packages.get(name), new.machine.packages.get(name)
        if a != b:
            yield f"{name} was {a or 'absent'} and is {b or 'absent'}"
    ceilings = {(each.kind, each.precision, each.provider): each.per_second for each in old.limits}
    for each in new.limits:
        before = ceilings.get((each.kind, each.precision, each.provider))
        if before and not 1 / (1 + threshold) <= each.per_second / before <= 1 + threshold:
            yield (
                f"the machine itself: its ceiling of {each.kind} in {each.precision} is "
                f"{each.per_second / before:.2f} of what it was"
            )
    lost = [name for name in _times(old) if name not in _times(new)]
    added = [name for name in _times(new) if name not in _times(old)]
    if lost or added:
        yield f"only in the old record: {_plain(lost)}; only in the new one: {_plain(added)}"
    for record, when in ((old, "old"), (new, "new")):
        for warning in record.warnings:
            yield f"{when} record: {shortened(warning, 300)}"


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return visible(shortened(value, 60))
    if isinstance(value, list):
        return visible(", ".join(value)) or "none"
    return visible(shortened(json.dumps(value, sort_keys=True), 80))
