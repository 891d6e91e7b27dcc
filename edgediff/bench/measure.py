"""The whole measurement: warm, cold, limits and work, each in processes of its own, to one record."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from edgediff import __version__, tasks
from edgediff.bench import against, ceilings, children, components, counting, doubts, host
from edgediff.bench.record import Asked, Cold, Energy, Limit, Memory, Model, Moment, Record, Samples, Span
from edgediff.bundle import Bundle
from edgediff.errors import InputError
from edgediff.tasks.call import Call
from edgediff.threads import available_threads

Say = Callable[[str], None]
Told = Mapping[str, Any]
PROMPT = "a red circle to the left of a blue square on a white background"
_CACHE = "EDGEDIFF_CACHE"
ROUNDS, SECONDS, TOO_LONG = 5, 20.0, 60.0
"""Cold starts of each kind unless a number was asked for: so many, or what fits in so many seconds, but one
at least, unless a picture alone takes too long."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure, checked. ``arguments`` are those of a call, ``options`` those of a pipeline; ``runs``
    and ``cold`` are None where the time that they take decides."""

    bundle: Bundle
    call: Call
    prompt: str
    arguments: Mapping[str, Any]
    options: Mapping[str, Any]
    runs: int | None = None
    warmup: int = 1
    cold: int | None = None
    limits: bool = True
    name: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As a process of :mod:`edgediff.bench.worker` takes it."""
        return {
            "bundle": str(self.bundle.path), "options": dict(self.options), "prompt": self.prompt,
            "arguments": dict(self.arguments), "runs": self.runs, "warmup": self.warmup,
        }  # fmt: skip


def checked(
    bundle: Bundle,
    prompt: str = PROMPT,
    *,
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
    runs: int | None = None,
    warmup: int = 1,
    cold: int | None = None,
    limits: bool = True,
    name: str = "",
) -> Order:
    """Return the order after all that can be checked without loading anything.

    Raises:
        InputError: an argument is wrong, or the bundle draws nothing from text.
    """
    for what, value, low in (("runs", runs, 1), ("warmup", warmup, 0), ("cold", cold, 0)):
        if value is not None and not low <= value <= 10_000:
            raise InputError(f"{what}: {value} is not a whole number from {low} to 10000.")
    if bundle.text is None:
        raise InputError(f"{bundle.path}: bench draws from text, and this bundle reads none.")
    given = {"seed": 0, **{key: value for key, value in arguments.items() if value is not None}}
    asked = tasks.checked(bundle, prompt, **given)
    if not isinstance(asked, Call):
        raise InputError(f"{bundle.path}: bench draws from text alone, and this bundle does not.")
    own = {key: value for key, value in options.items() if value is not None}
    called = name or bundle.path.name
    return Order(bundle, asked, prompt, given, own, runs, warmup, cold, limits, called)


def check_against(order: Order, old: Record, threshold: float, force: bool) -> None:
    """Refuse to compare with ``old`` what is going to be measured, before it is.

    Raises:
        InputError: see :func:`edgediff.bench.against.check`.
    """
    digest = _model(order, {}, 0).digest
    against.check(old, host.card(None, None), digest, _asked(order, 0, 0), threshold, force)


def measured(order: Order, say: Say | None = None) -> Record:
    """Measure, and return the record; ``say`` is told in a line what begins.

    Raises:
        EdgediffError: what drawing raised. ResourceError: a process ended without an answer.
    """
    tell = say or (lambda line: None)
    before = host.load()
    made = datetime.now(UTC).isoformat(timespec="seconds")
    size, steps = order.call.size, order.call.steps.steps
    tell(f"warm: {size['width']}x{size['height']}, {steps} steps of {order.call.solver.name}")
    warm = children.do("warm", order.told())
    graphs = components.ran(warm)
    tell("counting operations")
    counts = counting.counted(order.bundle, components.counted_passes(warm))
    limits, missing = _limits(order, graphs, tell)
    cold, spans, skipped = _cold(order, _picture(warm), tell)
    parts = components.components(warm, graphs, counts, limits, order.call.batch)
    after = host.load()
    machine = host.card(before, after)
    by_role, total = components.bytes_of(warm)
    memory = Memory(
        warm["base_rss_bytes"], warm["peak_rss_bytes"], _named(warm["peaks"]),
        tuple(Moment(*each) for each in warm["moments"]), warm["interval"],
    )  # fmt: skip
    return Record(
        edgediff_version=__version__,
        made=made,
        machine=machine,
        model=_model(order, by_role, total),
        asked=_asked(order, len(warm["pictures"]), max((each.stages["total"].n for each in cold), default=0)),
        components=parts,
        cold=cold,
        memory=memory,
        limits=limits,
        energy=Energy(**warm["energy"]),
        spans=(*_spans("warm", warm["spans"]), *_spans("cold", spans)),
        warnings=tuple(dict.fromkeys([*warm["warnings"], *missing, *skipped, *doubts.found(machine, parts)])),
    )


def _picture(warm: Told) -> float:
    return float(Samples(tuple(each["picture"] for each in warm["pictures"])).median)


def _limits(order: Order, graphs: Mapping[str, Any], tell: Say) -> tuple[tuple[Limit, ...], list[str]]:
    wanted = ceilings.wanted(graphs.values())
    if not order.limits:
        return (), ["limits were not measured, as asked"]
    tell("limits of this machine")
    answer = children.do("limits", {"threads": order.options.get("threads"), "wanted": wanted})
    return tuple(Limit(**each) for each in answer["limits"]), list(answer["missing"])


def _cold(order: Order, picture: float, tell: Say) -> tuple[tuple[Cold, ...], list[Any], list[str]]:
    """New processes with empty caches and with full ones, in turns; the spans of the first full one."""
    if order.cold == 0 or (order.cold is None and picture > TOO_LONG):
        why = "as asked" if order.cold == 0 else f"since a picture takes {picture:.0f} s; give --cold 1"
        return (), [], [f"cold starts were not measured, {why}"]
    answers: dict[str, list[dict[str, Any]]] = {"empty": [], "full": []}
    spent = 0.0
    for i in range(ROUNDS if order.cold is None else order.cold):
        if order.cold is None and i and spent > SECONDS:
            break
        tell(f"cold start {i + 1}")
        with tempfile.TemporaryDirectory(prefix="edgediff-bench-") as folder:
            for caches in answers:
                answer = children.do("cold", order.told(), {_CACHE: folder})
                answer["stages"]["total"] = answer["ended"] - answer["spawned"]
                spent += answer["stages"]["total"]
                answers[caches].append(answer)
    return tuple(_stages(*each) for each in answers.items()), answers["full"][0]["spans"], []


def _stages(caches: str, answers: Sequence[Told]) -> Cold:
    names = dict.fromkeys(name for each in answers for name in each["stages"])
    stages = {
        name: Samples(tuple(each["stages"][name] for each in answers if name in each["stages"]))
        for name in names
    }
    peaks = [float(each["peak_rss_bytes"]) for each in answers if each["peak_rss_bytes"] is not None]
    return Cold(caches, stages, Samples(tuple(peaks)) if peaks else None)


def _model(order: Order, by_role: dict[str, int], total: int) -> Model:
    bundle = order.bundle
    source, scheme = bundle.origin.get("source"), bundle.quality.get("scheme")
    listed = {name: [record.bytes, record.sha256] for name, record in bundle.files.items()}
    if not listed:  # without a manifest, names and sizes must do: hashing gigabytes would take minutes
        found = (file for file in bundle.path.rglob("*") if file.is_file())
        listed = {file.relative_to(bundle.path).as_posix(): [file.stat().st_size, ""] for file in found}
    digest = hashlib.sha256(repr(sorted(listed.items())).encode()).hexdigest()
    return Model(
        order.name, None if source is None else str(source), digest, bundle.format_version,
        None if scheme is None else str(scheme), by_role, total,
    )  # fmt: skip


def _asked(order: Order, runs: int, cold: int) -> Asked:
    call, options = order.call, order.options
    more = {key: value for key, value in order.arguments.items() if key not in _FIELDS}
    return Asked(
        prompt=order.prompt, height=call.size["height"], width=call.size["width"], steps=call.steps.steps,
        hops=len(call.schedule.hops), guidance_scale=float(call.guidance_scale), batch=call.batch,
        sampler=call.solver.name, seed=0, device=options.get("device", "auto"),
        runtime=options.get("runtime", "auto"), precision=options.get("precision"),
        threads=options.get("threads") or available_threads(), runs=runs, warmup=order.warmup, cold=cold,
        options={**more, **{k: v for k, v in options.items() if k not in _PIPELINE}},
    )  # fmt: skip


_FIELDS = (
    "seed", "height", "width", "num_inference_steps", "guidance_scale", "num_images_per_prompt", "sampler",
)  # fmt: skip
_PIPELINE = ("device", "runtime", "precision", "threads")


def _named(peaks: Mapping[str, int]) -> dict[str, int]:
    """Peaks of spans that have a name; steps by their graphs alone."""
    return {name: peak for name, peak in peaks.items() if name and not name.startswith("step ")}


def _spans(process: str, told: Sequence[Any]) -> list[Span]:
    return [Span(name, process, thread, start, took) for name, thread, start, took in told]
