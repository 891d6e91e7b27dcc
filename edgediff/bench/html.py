"""A record as one HTML file that needs nothing else: no network, no script, no font, no other file.

What comes from outside (names, prompts, warnings, other people's records) is escaped, and the page's own
policy forbids whatever could be loaded or run.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgediff.bench import charts, html_tables
from edgediff.bench.against import Comparison
from edgediff.bench.chart_front import Run
from edgediff.bench.chart_svg import told
from edgediff.bench.html_style import SHEET, policy
from edgediff.bench.record import Record
from edgediff.compare.units import seconds, shortened, size

_HOW = {
    "Warm": "runs in one process after its warm-up; a component's samples are its single calls.",
    "Percentiles": "by the nearest rank: always a value that was measured.",
    "Cold": "a new process each run, timed from before it was started; files may still be in the system's "
    "cache, which only an administrator can empty.",
    "FLOP": "floating-point operations of convolutions, linear layers and attention products; a multiply-add "
    "counts as two.",
    "Limit": "ceilings of products, convolutions and memory, measured in the same run and provider. "
    "A component's limit is the least time that they allow for its operations.",
    "Peak memory": "the most resident memory of the process, Python and its libraries included.",
}  # fmt: skip


def page(records: Sequence[Record], against: Comparison | None = None) -> str:
    """Return the page. The first record is shown whole; others beside it, by seconds and memory. ``against``
    is what a comparison with an older record found.

    Raises:
        ValueError: there is no record.
    """
    if not records:
        raise ValueError("a page shows at least one record")
    record = records[0]
    asked = record.asked
    title = f"{record.model.name}: {asked.width}x{asked.height}, {asked.steps} steps"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy())}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{told(title)} · edgediff bench</title>",
        f"<style>{SHEET}</style>\n</head>\n<body>\n<h1>{told(title)}</h1>",
        f'<p class="soft">{told(_subtitle(record))}</p>',
        _warnings(record.warnings),
        _heads(record),
        *(() if against is None else _against(against)),
        *_sections(record),
        *_others(records),
        "<h2>How it was measured</h2>", html_tables.terms(_settings(record)), html_tables.terms(_HOW),
        "<h2>Machine</h2>", html_tables.terms(_machine(record)),
        "</body>\n</html>\n",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _sections(record: Record) -> list[str]:
    own = record.components
    parts = [
        *_section("Where the time goes", charts.of_picture(record)),
        *_section("Latency", charts.of_latency(own), html_tables.times(own)),
        *_section("How far from the limit", charts.of_limits(own), html_tables.work(own)),
    ]
    if record.limits:
        parts.append(f"<details><summary>The limits</summary>{html_tables.ceilings(record.limits)}</details>")
    parts += _section("Memory", charts.of_memory(record), html_tables.memory(record))
    for each in record.cold:
        table = f"<details><summary>All figures</summary>{html_tables.cold(each)}</details>"
        parts += _section(
            f"Cold start, caches {each.caches}", charts.of_cold(each.stages, each.caches), table
        )
    return [*parts, *_section("Where it ran", charts.of_nodes(own), html_tables.graphs(own))]


def _section(title: str, *parts: str) -> list[str]:
    """A heading and what stands under it; nothing at all where that is empty."""
    return [f"<h2>{told(title)}</h2>", *parts] if any(parts) else []


def _against(found: Comparison) -> list[str]:
    """What became of an older record's figures."""
    return [
        "<h2>Against an older record</h2>",
        html_tables.against(found),
        f'<p class="soft">{told(found.rule)}</p>',
        *(f"<p>Note: {told(each)}</p>" for each in found.notes),
    ]


def _others(records: Sequence[Record]) -> list[str]:
    """What several records show together, if there are several."""
    runs = []
    for r in records:
        whole = r.component(charts.WHOLE)
        if whole is not None and r.memory.peak_bytes is not None:
            runs.append(Run(_named(r), whole.seconds.median / r.asked.batch, r.memory.peak_bytes))
    if len(records) < 2:
        return []
    chart = charts.of_records(runs) if runs else ""
    return ["<h2>Several records</h2>", chart, html_tables.records(records)]


def _heads(record: Record) -> str:
    """The few numbers that most readers came for."""
    found: list[tuple[str, str]] = []
    whole = record.component(charts.WHOLE)
    batch = record.asked.batch
    if whole is not None:
        s = whole.seconds
        per = "a picture" if batch == 1 else f"a batch of {batch}"
        found.append((seconds(s.median), f"{per}, median of {s.n}"))
    for each in record.cold:
        if "total" in each.stages:
            found.append(
                (seconds(each.stages["total"].median), f"cold start to a picture, caches {each.caches}")
            )
    if record.memory.peak_bytes is not None:
        found.append((size(record.memory.peak_bytes), "peak memory"))
    inner = record.component("denoiser")
    if inner is not None and inner.work is not None and inner.work.limit_percent is not None:
        found.append((f"{inner.work.limit_percent:.3g} %", "of the machine's limit, denoiser"))
    found.append((size(record.model.total_bytes), "of files"))
    if record.energy.joules is not None and record.energy.pictures > 0:
        found.append((f"{record.energy.joules / record.energy.pictures:.3g} J", "a picture, processor alone"))
    tiles = "".join(f"<div><b>{told(value)}</b><span>{told(what)}</span></div>" for value, what in found)
    return f'<div class="heads">{tiles}</div>'


def _warnings(found: Sequence[str]) -> str:
    if not found:
        return ""
    lines = "".join(f"<li>{told(shortened(each, 600))}</li>" for each in found)
    return f'<div class="warn"><b>What makes these figures doubtful</b><ul>{lines}</ul></div>'


def _subtitle(record: Record) -> str:
    m = record.machine
    made = f"edgediff {record.edgediff_version}, {record.made[:16].replace('T', ' ')}"
    return f"{m.processor}, {m.cores} cores; {_device(record)}; {made}"


def _device(record: Record) -> str:
    asked = record.asked
    return (
        f"device {asked.device}{f' in {asked.precision}' if asked.precision else ''}, {asked.threads} threads"
    )


def _named(record: Record) -> str:
    asked = record.asked
    return f"{record.model.name}, {' '.join(filter(None, (asked.device, asked.precision)))}"


def _settings(record: Record) -> dict[str, object]:
    asked, model = record.asked, record.model
    energy = record.energy
    joules = (
        energy.reason if energy.joules is None else f"{energy.joules:.4g} J of {energy.pictures} pictures"
    )
    return {
        "Bundle": f"{model.name}, {size(model.total_bytes)}, digest {model.digest}",
        "Source": model.source,
        "Files by role": {role: size(count) for role, count in model.bytes.items()},
        "Prompt": shortened(asked.prompt, 300),
        "Picture": f"{asked.width}x{asked.height} pixels, batch {asked.batch}, seed {asked.seed}",
        "Steps": f"{asked.steps} of {asked.sampler}, guidance {asked.guidance_scale:g}",
        "Device": f"{_device(record)}, runtime {asked.runtime}",
        "Options": dict(asked.options),
        "Runs": f"{asked.runs} after {asked.warmup} to warm up; {asked.cold} cold",
        "Energy": joules,
    }


def _machine(record: Record) -> dict[str, object]:
    m = record.machine
    return {
        "Processor": m.processor,
        "Features": m.features,
        "Cores": f"{m.cores} usable, {m.physical_cores or 'unknown'} physical",
        "Memory": None if m.memory_bytes is None else size(m.memory_bytes),
        "System": m.system,
        "Python": m.python,
        "Packages": m.packages,
        "Governor": m.governor,
        "Load": f"{_plain(m.load_before)} before, {_plain(m.load_after)} after (average of a minute)",
        "edgediff": record.edgediff_version,
    }


def _plain(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
