"""The charts of a record, each drawn for a desk and for a phone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgediff.bench.chart_front import Run, plot
from edgediff.bench.chart_latency import Timed, latency, spread
from edgediff.bench.chart_limits import Reached, limits
from edgediff.bench.chart_memory import Moment, memory
from edgediff.bench.chart_share import Part, share, stacks
from edgediff.bench.chart_svg import BROAD, SLIM, told
from edgediff.bench.html_tables import short
from edgediff.bench.record import Component, Record, Samples
from edgediff.compare.units import seconds

_KINDS = {
    "denoiser": "f0", "decoder": "f1", "text_encoder": "f2", "text_encoder_2": "f2", "sampler": "f3",
    "post": "f4", "other": "f5", "tokenize": "f6", "picture": "f5",
}  # fmt: skip
_OTHERS = ("f3", "f4", "f6", "f2")
_PROVIDERS = ("f0", "f1", "f3", "f2", "f4", "f6", "f5")
WHOLE = "picture"
_UNTOLD = 0.005  # of a picture: less cannot be seen


def kind(name: str) -> str:
    """Return the colour's class of a component: the same one in every chart."""
    return _KINDS.get(name) or _OTHERS[sum(map(ord, name)) % len(_OTHERS)]


def figure(draw: Callable[[int], str], caption: str) -> str:
    """Return a chart in both widths, of which a page shows one, and the line below it."""
    both = f'<div class="broad">{draw(BROAD)}</div><div class="slim">{draw(SLIM)}</div>'
    return f"<figure>{both}<figcaption>{told(caption)}</figcaption></figure>"


def of_picture(record: Record) -> str:
    """Return what a picture's time is made of; empty where nothing was timed."""
    whole = record.component(WHOLE)
    if whole is None:
        return ""
    took = whole.seconds.median
    parts = [
        Part(c.name if c.calls in (0, 1) else f"{c.name} x{c.calls:g}", c.share * took, kind(c.name))
        for c in record.components
        if c.name != WHOLE and c.share > 0
    ]
    rest = 1 - sum(part.amount for part in parts) / took
    if rest > _UNTOLD:
        parts.append(Part("not told apart", rest * took, "track"))
    title = "What a picture's time is made of"
    return figure(lambda w: share(parts, w, title, seconds), f"{title}, by medians of warm runs.")


def of_latency(components: Sequence[Component]) -> str:
    """Return how long a call of each component takes, and how much that differs from call to call."""
    rows = [_timed(c.name, c.seconds, kind(c.name)) for c in components]
    if not rows:
        return ""
    return figure(
        lambda w: latency(rows, w),
        "One call of each. Bar: median. Ticks: 90th (short) and 99th percentile. Line: fastest to slowest.",
    ) + figure(
        lambda w: spread(rows, w),
        "Every sample as a multiple of its component's median; farther than 0.5 or 2 stands at the edge.",
    )


def of_cold(stages: Mapping[str, Samples], caches: str) -> str:
    """Return the stages of a cold start."""
    rows = [_timed(name, each, "f1" if name == "total" else "f0") for name, each in stages.items()]
    caption = (
        f"New processes, caches {caches}. Stages in the order in which they begin; roles load side by side."
    )
    return figure(lambda w: latency(rows, w), caption)


def of_limits(components: Sequence[Component]) -> str:
    """Return how far components are from the machine's limit; empty where none is known."""
    rows = [
        Reached(c.name, c.work.limit_percent, c.work.flops_per_second, c.work.limit_by, kind(c.name))
        for c in components
        if c.work is not None and c.work.limit_percent is not None
    ]
    caption = "100 % is the least time that this machine's measured ceilings allow for the same operations."
    return figure(lambda w: limits(rows, w), caption) if rows else ""


def of_memory(record: Record) -> str:
    """Return the memory over time; empty where the system does not tell it."""
    line = record.memory.timeline
    if len(line) < 2:
        return ""
    moments = [Moment(m.at - line[0].at, m.rss_bytes, m.stage) for m in line]
    every = f"{1000 * record.memory.interval:.0f} ms"
    caption = f"What the process had in RAM, read every {every}; shades are the stages of the run."
    return figure(lambda w: memory(moments, w), caption)


def of_nodes(components: Sequence[Component]) -> str:
    """Return which provider ran how many nodes of each graph; empty where the runtime does not tell."""
    ran = {c.name: c.ran.nodes for c in components if c.ran is not None and c.ran.nodes}
    providers = list(dict.fromkeys(name for nodes in ran.values() for name in nodes))
    colours = {name: _PROVIDERS[i % len(_PROVIDERS)] for i, name in enumerate(providers)}
    rows = {
        role: [Part(short(name), float(count), colours[name]) for name, count in nodes.items()]
        for role, nodes in ran.items()
    }
    title = "Nodes by provider"
    caption = "Nodes of the optimised graph; one that a compiler took whole counts as few."
    return figure(lambda w: stacks(rows, w, title, "nodes"), caption) if rows else ""


def of_records(runs: Sequence[Run]) -> str:
    """Return several records side by side: seconds per picture and peak memory."""
    caption = "Filled: no other record is both at least as fast and at least as lean."
    return figure(lambda w: plot(runs, w), caption)


def _timed(name: str, each: Samples, colour: str) -> Timed:
    return Timed(name, each.values, each.median, each.p90, each.p99, colour)
