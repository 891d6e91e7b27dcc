"""From what the warm process told to the parts of a picture's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from edgediff.bench import ceilings
from edgediff.bench.record import Component, Limit, Ran, Samples, Work

Told = Mapping[str, Any]
Counts = Mapping[str, tuple[Mapping[str, int], str]]
_WHAT = {
    "tokenize": "the call's texts become numbers",
    "sampler": "a step without its graphs: guidance, the sampler's arithmetic, copies",
    "load": "graphs that are loaded again for each picture",
    "post": "the rest from latents to a PNG's bytes: scaling, 8 bits, compression",
    "other": "what is left: noise, embeddings put together, Python",
    "picture": "from the prompt to a PNG's bytes",
}


def ran(told: Told) -> dict[str, Ran]:
    """Return the graphs that ran, by role."""
    return {
        role: Ran(
            role, each["runtime"], each["device"], each["provider"], each["profile"], each["precision"],
            each["nodes"], sum(each["files"].values()), each["load_seconds"],
        )
        for role, each in told["graphs"].items()
    }  # fmt: skip


def components(
    told: Told, graphs: Mapping[str, Ran], counts: Counts, limits: Sequence[Limit], batch: int
) -> tuple[Component, ...]:
    """Return the components in the order in which a picture passes them, the whole last.

    ``counts`` is the work of all passes of all pictures together; ``batch`` pictures are drawn at once.
    """
    pictures = told["pictures"]
    whole = Samples(tuple(each["picture"] for each in pictures))
    peaks = told["peaks"]
    makes = _Makes(graphs, counts, limits, whole, peaks, len(pictures))
    found = []
    if told["tokenize"]:
        found.append(makes.plain("tokenize", told["tokenize"], 1.0))
    found += makes.runs([each["texts"] for each in pictures], "one row of tokens through it")
    steps = [step for each in pictures for step in each["steps"]]
    found += makes.stepped(steps, batch)
    found.append(makes.plain("sampler", [_own(step) for step in steps], len(steps) / len(pictures)))
    found += makes.runs([each["decoders"] for each in pictures], "latents become pixels, in [-1, 1]")
    found.append(makes.plain("post", [each["post"] for each in pictures], 1.0))
    if any(each["loads"] for each in pictures):
        found.append(makes.plain("load", [each["loads"] for each in pictures], 1.0))
    tokens = median(told["tokenize"]) if told["tokenize"] else 0.0
    found.append(makes.plain("other", [max(0.0, _left(each) - tokens) for each in pictures], 1.0))
    return (*found, makes.picture(found))


def _own(step: Told) -> float:
    inside: float = sum(step["roles"].values())
    took: float = step["took"]
    return max(0.0, took - inside)


def _left(picture: Told) -> float:
    """What no component of a picture accounts for, tokenizing aside."""
    inside: float = sum(took for _, took in (*picture["texts"], *picture["decoders"]))
    inside += picture["post"] + picture["loads"] + sum(step["took"] for step in picture["steps"])
    whole: float = picture["picture"]
    return whole - inside


class _Makes:
    """Components with what they share at hand."""

    def __init__(
        self,
        graphs: Mapping[str, Ran],
        counts: Counts,
        limits: Sequence[Limit],
        whole: Samples,
        peaks: Mapping[str, int],
        pictures: int,
    ) -> None:
        self._graphs, self._counts, self._limits = graphs, counts, limits
        self._whole, self._peaks, self._pictures = whole, peaks, pictures

    def plain(self, name: str, seconds: Sequence[float], calls: float) -> Component:
        return self._made(name, _WHAT[name], seconds, calls, None)

    def runs(self, told: Sequence[Sequence[Any]], what: str) -> list[Component]:
        """Graphs that run some times for a picture, by role."""
        by_role: dict[str, list[float]] = {}
        for each in told:
            for role, took in each:
                by_role.setdefault(role, []).append(took)
        return [
            self._made(role, what, seconds, len(seconds) / self._pictures, role)
            for role, seconds in by_role.items()
        ]

    def stepped(self, steps: Sequence[Told], batch: int) -> list[Component]:
        """Graphs that run in steps: all runs of one step are one call."""
        by_role: dict[str, list[float]] = {}
        for step in steps:
            for role, took in step["roles"].items():
                by_role.setdefault(role, []).append(took)
        of = "one picture" if batch == 1 else f"{batch} pictures at once"
        what = f"its runs in one step of {of}, guidance included"
        return [
            self._made(role, what, seconds, len(seconds) / self._pictures, role)
            for role, seconds in by_role.items()
        ]

    def picture(self, parts: Sequence[Component]) -> Component:
        """The whole, whose work is that of its parts."""
        peak = max(self._peaks.values(), default=None)
        works = [(each, each.work) for each in parts if each.work is not None]
        graphs = [each for each in parts if each.ran is not None]
        work = _sum(works, self._whole.median) if works and len(works) == len(graphs) else None
        return Component("picture", _WHAT["picture"], self._whole, 1.0, 1.0, peak, None, work)

    def _made(
        self, name: str, what: str, seconds: Sequence[float], calls: float, role: str | None
    ) -> Component:
        taken = Samples(tuple(seconds))
        share = taken.median * calls / self._whole.median
        graph = self._graphs.get(role or "")
        work = None
        if graph is not None and graph.role in self._counts:
            counts, source = self._counts[graph.role]
            each = {kind: round(flops / taken.n) for kind, flops in counts.items()}
            work = ceilings.work(each, source, taken.median, graph, self._limits)
        peak = self._peaks.get(name)
        return Component(name, what, taken, calls, share, peak, graph, work)


def _sum(works: Sequence[tuple[Component, Work]], seconds: float) -> Work:
    by_class: dict[str, int] = {}
    for part, work in works:
        for kind, flops in work.by_class.items():
            by_class[kind] = by_class.get(kind, 0) + round(flops * part.calls)
    total = sum(by_class.values())
    known = [work.limit_seconds * part.calls for part, work in works if work.limit_seconds is not None]
    least = sum(known) if len(known) == len(works) else None
    source = ", ".join(dict.fromkeys(work.source for _, work in works))
    by = "the sum of its graphs' limits" if least is not None else "a graph has no limit"
    percent = None if least is None else 100 * least / seconds
    return Work(total, by_class, source, total / seconds, least, percent, by)


def bytes_of(told: Told) -> tuple[dict[str, int], int]:
    """Return the bytes of each role's files, and of all of them, each file counted once."""
    files: dict[str, int] = {}
    for each in told["graphs"].values():
        files |= each["files"]
    return {role: sum(each["files"].values()) for role, each in told["graphs"].items()}, sum(files.values())


def counted_passes(told: Told) -> list[Any]:
    """Return all passes of the pictures that count."""
    return [each for picture in told["pictures"] for each in picture["passes"]]
