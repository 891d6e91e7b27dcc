"""The mixed plan: what each layer gets is chosen by what it does to the result when it alone is quantized.

Bounds are on the quality of what is drawn (the PSNR of the final latents against the float parent's at equal
seeds, and of what the decoder makes of equal latents), on the bytes of all weights in one form, and on the
seconds of a pass of the denoiser. Where a quality is asked for, the fewest bytes that hold it are taken, and
error that is left over makes layers compute in int8; otherwise the best quality within the bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgediff.errors import CheckFailed
from edgediff.export.emit.integers import Choice, Span
from edgediff.export.families.parts import Model
from edgediff.export.quantize.drawings import PICTURES, Drawings, decibel
from edgediff.export.quantize.mixing import LATENTS, TIMED, Bounds, Mixer, Picked, choices_of
from edgediff.export.quantize.plan import CHOICES, Decision, Plan
from edgediff.export.quantize.prompts import CAPTIONS
from edgediff.export.quantize.raising import raised
from edgediff.export.quantize.schemes import described, plan_of
from edgediff.export.quantize.sensitivity import BUDGET, Course, Measured, course_of, measure
from edgediff.export.quantize.storage import plan_bytes
from edgediff.export.quantize.trials import Trials
from edgediff.export.quantize.tune import Tuned, symmetric, tune
from edgediff.export.quantize.units import searched, units_of
from edgediff.export.quantize.whole import Whole

Say = Callable[[str], None]
_MOST = 200.0  # decibels, which stand for no error at all
_TURNS, _FEW_TURNS = 7, 3


def search(
    parent: Path,
    model: Model,
    spans: Mapping[str, Mapping[int, Span]],
    *,
    tuned: Tuned | None = None,
    min_psnr: float | None = None,
    max_size: float | None = None,
    max_latency: float | None = None,
    prompts: Sequence[str] | None = None,
    evaluation: Sequence[str] | None = None,
    budget: float = BUDGET,
    threads: int | None = None,
    report: Say | None = None,
) -> Plan:
    """The plan for ``model`` under the bounds, at least one of which is given; deterministic but for times.

    ``parent`` is its float bundle, into which files are put and taken away; ``spans`` are calibrated for all
    that int8 can be. ``min_psnr`` is in dB, ``max_size`` in megabytes, ``max_latency`` in seconds.
    ``prompts`` are drawn to find out how sensitive layers are, ``evaluation`` (those of the receipt) to
    measure the whole. ``budget`` is in floating-point operations.

    Raises:
        CheckFailed: no plan is so small or so fast; the message has the figures.
    """
    say = report if report is not None else _silent
    bounds = Bounds(min_psnr, None if max_size is None else max_size * 1e6, max_latency)
    began = time.perf_counter()
    vnni = {p.role: symmetric(p, model) if tuned is None else tuned.vnni[p.role] for p in model.parts}
    trials = Trials(parent, model, spans, vnni)
    try:
        words = list(CAPTIONS if prompts is None else prompts)
        course = course_of(trials, words[0], budget)
        measured = _measured(trials, words, course, threads, say)
        timed = _timed(model, tuned, threads, say) if bounds.seconds is not None else tuned
        whole = Whole(trials, evaluation, threads, say)
        chooser = _Chooser(model, Mixer(model, measured, timed), whole, bounds, course, say)
        plan = _plan(model, measured, chooser.picked(), bounds, chooser.rest)
        reached = whole.psnr({role: plan.choices(role) for role in _drawing(model)})
    finally:
        trials.close()
    size = plan_bytes(model, {role: plan.choices(role) for role in plan.layers}) / 1e6
    taken = time.perf_counter() - began
    say(f"tried {trials.count} graphs in {taken:.0f} s: {reached:.1f} dB of final latents, {size:.4g} MB")
    return plan


def least_bytes(model: Model) -> int:
    """The bytes of all weights in the smallest plan that a search can choose."""
    own = {part.role for part in searched(model)}
    rules = plan_of("int8-weights", model)
    choices = {part.role: rules.choices(part.role) for part in model.parts if part.role not in own}
    for part in searched(model):
        choices[part.role] = {}
        for unit in units_of(part, {}):
            smallest = min(unit.options, key=lambda option: unit.bytes[option])
            choices[part.role] |= unit.choices[smallest]
    return plan_bytes(model, choices)


def _measured(
    trials: Trials, prompts: Sequence[str], course: Course, threads: int | None, say: Say
) -> list[Measured]:
    drawings = Drawings(trials, prompts, course.walk, threads)
    try:
        return measure(drawings, course, say)
    finally:
        drawings.close()


def _timed(model: Model, tuned: Tuned | None, threads: int | None, say: Say) -> Tuned:
    """What every choice takes, for a bound on seconds."""
    known = {} if tuned is None else tuned.seconds.get(TIMED, {})
    if tuned is not None and known and all(set(CHOICES) <= each.keys() for each in known.values()):
        return tuned
    return tune(model, report=say, choices=CHOICES, threads=threads, roles=(TIMED,))


def _drawing(model: Model) -> list[str]:
    """The networks that have a part in the final latents, each once."""
    return [part.role for part in searched(model) if part.role not in PICTURES]


class _Chooser:
    """Chooses within bounds that the whole, measured, must hold."""

    def __init__(
        self, model: Model, mixer: Mixer, whole: Whole, bounds: Bounds, course: Course, say: Say
    ) -> None:
        self._model, self._mixer, self._whole, self._bounds, self._say = model, mixer, whole, bounds, say
        self._units = [each.unit for each in mixer.measured]
        self._turns = _FEW_TURNS if course.coarse else _TURNS
        # What the search does not look at, or not under these bounds: by the rules of a scheme.
        self.rest = "int8" if bounds.min_psnr is None and bounds.bytes is None else "int8-weights"

    def picked(self) -> Picked:
        """The choice of every unit.

        Raises:
            CheckFailed: the bounds cannot be held.
        """
        wanted = self._bounds.seconds
        if wanted is None:
            return self._within(None)
        fixed, scale = self._line()
        limit, taken = (wanted - fixed) / scale, 0.0
        for _ in range(_FEW_TURNS):
            picked = self._within(max(0.0, limit))
            taken = self._pass(picked)
            self._say(f"a pass of the denoiser takes {taken:.4g} s, {wanted:g} s are allowed")
            if taken <= wanted:
                return picked
            limit -= 1.1 * (taken - wanted) / scale
        raise CheckFailed(
            f"max_latency {wanted:g} s: with the last plan a pass of the denoiser took {taken:.4g} s here. "
            "Ask for more time, or for less quality."
        )

    def _line(self) -> tuple[float, float]:
        """What a pass takes beside its layers, and per second of theirs: from float and the fastest forms.

        Raises:
            CheckFailed: even the fastest forms take longer than is allowed.
        """
        mixer, wanted = self._mixer, self._bounds.seconds or 0.0
        own = [unit for unit in self._units if unit.role == TIMED]
        plain: Picked = {(unit.role, unit.name): "float" for unit in own}
        fastest: Picked = {}
        for unit in own:
            fastest[unit.role, unit.name] = min(unit.options, key=lambda c: mixer.seconds(unit, c))
        slow, fast = self._pass(plain), self._pass(fastest)
        self._say(f"a pass of the denoiser takes {slow:.4g} s in float, {fast:.4g} s in its fastest forms")
        if fast > wanted:
            raise CheckFailed(
                f"max_latency {wanted:g} s: a pass of the denoiser takes {fast:.4g} s here in its fastest "
                f"forms, and {slow:.4g} s in float. Ask for more time."
            )
        most, least = (mixer.total(each, lambda m, c: mixer.seconds(m.unit, c)) for each in (plain, fastest))
        scale = (slow - fast) / (most - least) if most > least and slow > fast else 1.0
        return fast - scale * least, scale

    def _pass(self, picked: Picked) -> float:
        return self._whole.seconds(choices_of(picked, self._units).get(TIMED, {}))

    def _within(self, seconds: float | None) -> Picked:
        """What is chosen where the denoiser's layers may take ``seconds``."""
        bounds, mixer = self._bounds, self._mixer
        if bounds.min_psnr is not None:
            return self._holding(bounds.min_psnr, seconds)
        if bounds.bytes is not None:
            fixed = self._bytes({}) - sum(unit.bytes["float"] for unit in self._units)
            found = mixer.best(max(0.0, bounds.bytes - fixed), seconds)
            if found is None:
                least = (fixed + sum(min(unit.bytes.values()) for unit in self._units)) / 1e6
                slow = "" if seconds is None else ", if it may take as long as it does"
                raise CheckFailed(
                    f"max_size {bounds.bytes / 1e6:g} MB: the smallest plan has {least:.4g} MB of weights"
                    f"{slow}. Ask for more."
                )
            return found
        quickest = mixer.quickest(max(0.0, seconds or 0.0))
        if quickest is None:
            raise CheckFailed(
                f"max_latency {bounds.seconds or 0.0:g} s: no plan is so fast by what was timed here. Ask "
                "for more time."
            )
        return quickest

    def _holding(self, floor: float, seconds: float | None) -> Picked:
        """The fewest bytes that hold a floor, in each of the domains that errors are measured in."""
        found: Picked = {}
        for domain in self._mixer.domains:
            limit = seconds if domain == LATENTS else None

            def pick(error: float, domain: str = domain, limit: float | None = limit) -> Picked | None:
                return self._mixer.smallest(domain, error, limit)

            def reached(picked: Picked, domain: str = domain) -> float:
                ratio = self._whole.psnr(choices_of(picked, self._units))
                taken = self._mixer.total(picked, lambda m, c: m.unit.bytes[c])
                self._say(f"{domain}: layers of {taken / 1e6:.4g} MB reach {ratio:.1f} dB")
                return ratio

            held = raised(pick, reached, floor, self._turns)
            if held is None:
                raise CheckFailed(
                    f"max_latency {self._bounds.seconds or 0.0:g} s leaves less than {floor:g} dB. Ask for "
                    "more time, or for less quality."
                )
            found |= held
        size, most = self._bytes(found), self._bounds.bytes
        if most is not None and size > most:
            raise CheckFailed(
                f"max_size {most / 1e6:g} MB: {floor:g} dB take {size / 1e6:.4g} MB of weights. Ask for less "
                "quality, or for more room."
            )
        return found

    def _bytes(self, picked: Picked) -> int:
        """The bytes of all weights where some units have a choice and all others are float."""
        rules = plan_of(self.rest, self._model)
        own = {part.role for part in searched(self._model)}
        others = {part.role: rules.choices(part.role) for part in self._model.parts if part.role not in own}
        return plan_bytes(self._model, {**others, **choices_of(picked, self._units)})


def _plan(model: Model, measured: Sequence[Measured], picked: Picked, bounds: Bounds, rest: str) -> Plan:
    """What was picked, with the reasons; what was not is as the rules of a scheme have it."""
    rules = plan_of(rest, model)
    decided: dict[str, dict[str, Decision]] = {}
    ratios: dict[str, dict[str, dict[Choice, float]]] = {}
    for each in measured:
        unit = each.unit
        told: dict[Choice, float] = {}
        for choice, error in each.errors.items():
            if choice != "float":
                told[choice] = round(min(_MOST, decibel(error)), 2)
        ratios.setdefault(unit.role, {})[unit.name] = told
        chosen = picked.get((unit.role, unit.name))
        if chosen is not None:
            given = {scope: Decision(got, _reason(got, told)) for scope, got in unit.choices[chosen].items()}
            decided.setdefault(unit.role, {}).update(given)
    shared = {part.folder: decided.get(part.role, {}) for part in searched(model)}
    layers = {
        part.role: {**rules.layers[part.role], **_of(shared.get(part.folder, {}), rules.layers[part.role])}
        for part in model.parts
    }
    floor = {
        name: value
        for name, value in (
            ("min_psnr", bounds.min_psnr), ("max_bytes", bounds.bytes), ("max_seconds", bounds.seconds),
        )
        if value is not None
    }  # fmt: skip
    return Plan("mixed", layers, rules.kinds, described(model), floor, ratios)


def _of(decisions: Mapping[str, Decision], known: Mapping[str, Decision]) -> dict[str, Decision]:
    return {scope: decision for scope, decision in decisions.items() if scope in known}


def _reason(got: Choice, told: Mapping[Choice, float]) -> str:
    if got == "float":
        least = max(told.values(), default=_MOST)
        return f"measured alone: quantized it leaves {least:.0f} dB"
    return f"measured alone: leaves {told.get(got, _MOST):.0f} dB"


def _silent(line: str) -> None:
    """Report nothing."""
