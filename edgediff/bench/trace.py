"""A run as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open: our spans, and below them what
ONNX Runtime's own profile says of each node.

The format is the "Trace Event Format" (Chromium project): complete events, ``ph`` X, with a start ``ts`` and
a length ``dur`` in microseconds. Events of one thread must nest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from edgediff.bench import trace_session
from edgediff.bench.record import Span

Event = dict[str, Any]
_EDGE = 1e-3  # microseconds: what is closer together is one moment


class Traced(NamedTuple):
    """A process of the trace: its name, its spans (seconds from its start), and the profiles of its sessions
    as ``{role: (events, microseconds from its start at which theirs begin)}``."""

    name: str
    spans: tuple[Span, ...]
    profiles: Mapping[str, tuple[Sequence[Mapping[str, Any]], float]] = {}


def chrome(processes: Sequence[Traced], about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the trace as JSON holds it. Each process has the time of its own start as zero; ``about`` goes
    along as it is."""
    events: list[Event] = []
    for number, each in enumerate(processes, 1):
        events.append(_named("process_name", number, 0, each.name))
        events.append(_named("process_sort_index", number, 0, number))
        for thread, (track, own) in enumerate(_tracks(each).items(), 1):
            events.append(_named("thread_name", number, thread, track))
            events.append(_named("thread_sort_index", number, thread, thread))
            events += [{"ph": "X", "pid": number, "tid": thread, **event} for event in nested(own)]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(about or {})}


def profiles(
    folder: Path, roles: Mapping[str, str], zero_ns: int
) -> dict[str, tuple[Sequence[Mapping[str, Any]], float]]:
    """Return the profiles that sessions left in ``folder``, by role.

    Args:
        roles: the role of each graph's file, as ``unet/model.onnx``.
        zero_ns: on ``time.perf_counter_ns``, the start of the process that the sessions were in.
    """
    found: dict[str, tuple[Sequence[Mapping[str, Any]], float]] = {}
    for file in sorted(folder.glob("*.json")):
        quoted, _, start = file.stem.rpartition(".")
        try:
            events = json.loads(file.read_text(encoding="utf-8", errors="replace"))
            offset = (int(start) - zero_ns) / 1e3
        except ValueError:  # a session that was never closed leaves half a file, under a name of its own
            continue
        path = unquote(quoted)
        name = roles.get(path, path)
        while name in found:
            name += " again"
        found[name] = events, offset
    return found


def nested(events: Iterable[Event]) -> list[Event]:
    """Return events of one thread in order, each inside what was still running when it began: what sticks
    out, as whole microseconds make the last node of a run do, is cut to its parent's end."""
    ordered = sorted(events, key=lambda e: (e["ts"], -e["dur"]))
    running: list[float] = []
    found = []
    for event in ordered:
        while running and running[-1] <= event["ts"] + _EDGE:
            running.pop()
        end = event["ts"] + event["dur"]
        if running and end > running[-1]:
            end = running[-1]
            event = {**event, "dur": end - event["ts"]}
        running.append(end)
        found.append(event)
    return found


def _tracks(each: Traced) -> dict[str, list[Event]]:
    """The events of a process by track: its threads, then a track for each role's session."""
    tracks: dict[str, list[Event]] = {}
    for span in each.spans:
        event = {"name": span.name, "cat": "edgediff", "ts": 1e6 * span.start, "dur": 1e6 * span.seconds}
        tracks.setdefault(span.thread, []).append(event)
    for role, (events, offset) in each.profiles.items():
        tracks[f"{role}: ONNX Runtime"] = trace_session.events(events, offset)
    return tracks


def _named(what: str, process: int, thread: int, value: str | int) -> Event:
    key = "sort_index" if isinstance(value, int) else "name"
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {key: value}}
