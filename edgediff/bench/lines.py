"""A record as tables: for a terminal, for an issue report (Markdown), for a spreadsheet (CSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from edgediff.bench.record import Cold, Component, Record, Samples
from edgediff.compare.units import seconds, size, visible

Rows = list[tuple[str, ...]]
_HEADS = (
    "component", "median", "p90", "p99", "min", "n", "calls", "share", "peak RSS", "provider (nodes)", "FLOP",
    "FLOP/s", "of limit",
)  # fmt: skip


def text(record: Record) -> str:
    """Return the tables as a terminal shows them."""
    blocks = [_headline(record), _columns(_components(record)), *_facts(record)]
    if record.cold:
        blocks.insert(2, _columns(_cold(record)))
    return "\n\n".join(blocks)


def markdown(record: Record) -> str:
    """Return the tables as Markdown, with the machine below them."""
    parts = [f"### {_escaped(_headline(record))}", _table(_components(record))]
    if record.cold:
        parts.append(_table(_cold(record)))
    listed = [_escaped(line) for block in _facts(record) for line in block.splitlines()]
    return "\n\n".join([*parts, "\n".join(f"* {line}" for line in listed)]) + "\n"


def comma_separated(record: Record) -> str:
    """Return a row for each component and statistic, in seconds, bytes and per cent."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("section", "component", "statistic", "value", "unit"))
    for part in record.components:
        writer.writerows(("warm", part.name, *each) for each in _statistics(part.seconds, "s"))
        more = [
            ("calls", part.calls, "1"),
            ("share", part.share, "1"),
            ("peak_rss", part.peak_rss_bytes, "B"),
        ]
        if part.work is not None:
            more += [
                ("flops", part.work.flops, "FLOP"), ("rate", part.work.flops_per_second, "FLOP/s"),
                ("limit", part.work.limit_seconds, "s"), ("of_limit", part.work.limit_percent, "%"),
            ]  # fmt: skip
        if part.ran is not None:
            more += [(f"nodes {provider}", nodes, "1") for provider, nodes in part.ran.nodes.items()]
        writer.writerows(
            ("warm", part.name, name, value, unit) for name, value, unit in more if value is not None
        )
    for cold in record.cold:
        for name, taken in cold.stages.items():
            writer.writerows((f"cold, caches {cold.caches}", name, *each) for each in _statistics(taken, "s"))
        if cold.peak_rss_bytes is not None:
            told = _statistics(cold.peak_rss_bytes, "B")
            writer.writerows((f"cold, caches {cold.caches}", "peak_rss", *each) for each in told)
    for limit in record.limits:
        writer.writerow(
            (
                "limit",
                f"{limit.kind} {limit.precision} {limit.provider}",
                "best",
                limit.per_second,
                limit.unit,
            )
        )
    return stream.getvalue()


def _statistics(taken: Samples, unit: str) -> Rows | list[tuple[str, float, str]]:
    return [(name, getattr(taken, name), unit) for name in ("median", "p90", "p99", "min", "max", "n")]


def _headline(record: Record) -> str:
    asked = record.asked
    batch = "" if asked.batch == 1 else f", {asked.batch} at once"
    guided = "" if asked.guidance_scale == 1 else f", guidance {asked.guidance_scale:g}"
    hops = "" if asked.hops == asked.steps else f" ({asked.hops} hops)"
    steps = f"{asked.steps} steps of {asked.sampler}{hops}"
    return visible(f"{record.model.name}: {asked.width}x{asked.height}, {steps}{guided}{batch}")


def _components(record: Record) -> Rows:
    return [_HEADS, *(_row(part) for part in record.components)]


def _row(part: Component) -> tuple[str, ...]:
    taken, work = part.seconds, part.work
    return (
        part.name, *(seconds(v) for v in (taken.median, taken.p90, taken.p99, taken.min)), str(taken.n),
        f"{part.calls:g}", f"{part.share:.1%}",
        "" if part.peak_rss_bytes is None else size(part.peak_rss_bytes), _where(part),
        "" if work is None else _short(work.flops), "" if work is None else _short(work.flops_per_second),
        "" if work is None or work.limit_percent is None else f"{work.limit_percent:.0f} %",
    )  # fmt: skip


def _where(part: Component) -> str:
    if part.ran is None:
        return ""
    nodes = part.ran.nodes or {part.ran.provider: 0}
    return ", ".join(
        name.removesuffix("ExecutionProvider") + (f" ({count})" if count else "")
        for name, count in nodes.items()
    )


def _short(value: float) -> str:
    for unit, of in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= 0.9995 * of:
            return f"{value / of:.3g} {unit}"
    return f"{value / 1e3:.3g} k"


def _cold(record: Record) -> Rows:
    names = dict.fromkeys(name for cold in record.cold for name in cold.stages)
    heads = ("cold start", *(f"caches {cold.caches}" for cold in record.cold))
    rows = [(name, *(_stage(cold, name) for cold in record.cold)) for name in names]
    peaks = [cold.peak_rss_bytes for cold in record.cold]
    if any(peaks):
        rows.append(("peak RSS", *(size(None if each is None else each.max) for each in peaks)))
    return [heads, *rows]


def _stage(cold: Cold, name: str) -> str:
    taken = cold.stages.get(name)
    return "" if taken is None else f"{seconds(taken.median)} (n {taken.n})"


def _facts(record: Record) -> list[str]:
    """What else there is to say, in blocks of lines."""
    limits = [
        f"{each.kind} {each.precision} {each.provider.removesuffix('ExecutionProvider')} "
        + (f"{each.per_second / 1e9:.1f} GB/s" if each.unit == "B/s" else f"{_short(each.per_second)}FLOP/s")
        for each in record.limits
    ]
    machine, asked = record.machine, record.asked
    memory = [f"base {size(record.memory.base_bytes)}", f"peak {size(record.memory.peak_bytes)}"]
    energy = record.energy
    lines = [
        f"limits measured here: {'; '.join(limits)}" if limits else "limits measured here: none",
        f"memory: {', '.join(memory)}; files of the forms that ran: {size(record.model.total_bytes)} "
        f"({', '.join(f'{role} {size(count)}' for role, count in record.model.bytes.items())})",
        f"energy: {energy.joules / energy.pictures:.3g} J a picture ({energy.source})"
        if energy.joules is not None and energy.pictures
        else f"energy: unknown ({energy.reason})",
        f"machine: {machine.processor}, {machine.cores} cores, {size(machine.memory_bytes)}, "
        f"{machine.system}, Python {machine.python}, "
        + ", ".join(f"{name} {version}" for name, version in machine.packages.items()),
        f"asked: device {asked.device}, precision {asked.precision or 'default'}, {asked.threads} threads, "
        f"{asked.runs} pictures; load {machine.load_before} before, {machine.load_after} after; "
        f"edgediff {record.edgediff_version}, {record.made}",
    ]
    blocks = ["\n".join(visible(line) for line in lines)]
    if record.warnings:
        blocks.append("\n".join(visible(f"warning: {line}") for line in record.warnings))
    return blocks


def _columns(rows: Sequence[Sequence[str]]) -> str:
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(row, wide, strict=True)).rstrip() for row in rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _escaped(cell: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "|\\`*_<>[]#&" else c for c in cell)
