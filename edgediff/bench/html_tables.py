"""The tables of the page: every number that the charts show, and those that they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgediff.bench.against import Comparison
from edgediff.bench.chart_limits import rate
from edgediff.bench.chart_svg import told
from edgediff.bench.record import Cold, Component, Limit, Record
from edgediff.compare.units import seconds, size

_UNKNOWN = "–"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """Return a table whose first column names the rows; it scrolls by itself where it is too wide."""
    head = "".join(f'<th scope="col">{told(each)}</th>' for each in heads)
    body = "\n".join(
        f'<tr><th scope="row">{told(first)}</th>{"".join(f"<td>{told(each)}</td>" for each in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def terms(pairs: Mapping[str, Any]) -> str:
    """Return names and what they are."""
    body = "".join(f"<dt>{told(name)}</dt><dd>{told(_written(value))}</dd>" for name, value in pairs.items())
    return f"<dl>{body}</dl>"


def times(components: Sequence[Component]) -> str:
    """Return the seconds of all components."""
    heads = ("Component", "n", "median", "p90", "p99", "min", "max", "calls", "of a picture", "peak memory")
    rows = []
    for c in components:
        s = c.seconds
        own = [seconds(v) for v in (s.median, s.p90, s.p99, s.min, s.max)]
        rows.append(
            (c.name, str(s.n), *own, f"{c.calls:g}", f"{100 * c.share:.1f} %", _size(c.peak_rss_bytes))
        )
    return table(heads, rows) if rows else ""


def work(components: Sequence[Component]) -> str:
    """Return operations, rates and shares of the limit; empty where nothing was counted."""
    heads = (
        "Component",
        "FLOP a call",
        "convolution",
        "linear",
        "attention",
        "rate",
        "of the limit",
        "counted by",
    )
    rows = [
        (
            c.name, _count(c.work.flops),
            *(_count(c.work.by_class.get(each, 0)) for each in ("conv", "linear", "attention")),
            rate(c.work.flops_per_second),
            _UNKNOWN if c.work.limit_percent is None else f"{c.work.limit_percent:.3g} %",
            c.work.source,
        )
        for c in components if c.work is not None
    ]  # fmt: skip
    return table(heads, rows) if rows else ""


def ceilings(found: Sequence[Limit]) -> str:
    """Return what the machine does at best."""
    heads = ("Limit", "precision", "provider", "per second", "what was computed")
    rows = [
        (each.kind, each.precision, each.provider, rate(each.per_second) if each.unit == "FLOP/s"
         else f"{size(each.per_second)}/s", each.how)
        for each in found
    ]  # fmt: skip
    return table(heads, rows, "words") if rows else ""


def graphs(components: Sequence[Component]) -> str:
    """Return what ran where."""
    heads = ("Graph", "provider", "device", "form", "precision", "nodes", "files", "load")
    rows = [
        (
            c.name, short(c.ran.provider), c.ran.device, c.ran.profile, c.ran.precision,
            ", ".join(f"{n} {short(p)}" for p, n in c.ran.nodes.items()) or _UNKNOWN, size(c.ran.file_bytes),
            seconds(c.ran.load_seconds),
        )
        for c in components if c.ran is not None
    ]  # fmt: skip
    return table(heads, rows, "words") if rows else ""


def cold(each: Cold) -> str:
    """Return the stages of cold starts."""
    heads = ("Stage", "n", "median", "p90", "min", "max")
    rows = [
        (name, str(s.n), *(seconds(v) for v in (s.median, s.p90, s.min, s.max)))
        for name, s in each.stages.items()
    ]
    return table(heads, rows)


def memory(record: Record) -> str:
    """Return the most memory of each stage."""
    found = record.memory
    rows = [("before the bundle was opened", _size(found.base_bytes))]
    rows += [(stage, size(most)) for stage, most in found.by_stage.items()]
    return table(("Stage", "peak"), [*rows, ("in all", _size(found.peak_bytes))])


def against(found: Comparison) -> str:
    """Return an older record's figures beside the new ones."""
    rows = []
    for row in found.rows:
        shown = seconds if row.unit == "seconds" else size
        reach = f"{row.ratio.low:.3f} to {row.ratio.high:.3f}" if row.ratio.known else _UNKNOWN
        rows.append((row.name, shown(row.old), shown(row.new), f"{row.ratio.value:.3f}", reach, row.verdict))
    return table(("Figure", "old", "new", "ratio", "95 % interval", "verdict"), rows)


def records(found: Sequence[Record]) -> str:
    """Return several records, a row each."""
    heads = (
        "Record", "device", "size", "steps", "a picture", "denoiser", "peak memory", "cold start", "made",
    )  # fmt: skip
    rows = []
    for r in found:
        whole, inner = r.component("picture"), r.component("denoiser")
        started = [c.stages["total"].median for c in r.cold if "total" in c.stages]
        rows.append((
            r.model.name, f"{r.asked.device} {r.asked.precision or ''}".strip(),
            f"{r.asked.width}x{r.asked.height}", str(r.asked.steps),
            *(_UNKNOWN if c is None else seconds(c.seconds.median) for c in (whole, inner)),
            _size(r.memory.peak_bytes), seconds(started[0]) if started else _UNKNOWN, r.made[:10],
        ))  # fmt: skip
    return table(heads, rows)


def short(provider: str) -> str:
    """Return a provider's name without the part that all of them share."""
    return provider.removesuffix("ExecutionProvider") or provider


def _size(value: int | None) -> str:
    return _UNKNOWN if value is None else size(value)


def _count(value: float) -> str:
    if value == 0:
        return "0"
    for unit in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.3g} {unit}".rstrip()
        value /= 1000
    return f"{value:.3g} T" if value < 999.5 else f"{value:.0f} T"


def _written(value: Any) -> str:
    if value is None:
        return _UNKNOWN
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_written(v)}" for k, v in value.items()) or _UNKNOWN
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_written, value)) or _UNKNOWN
    return f"{value:.4g}" if isinstance(value, float) else str(value)
