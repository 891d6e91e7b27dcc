"""What the activations of a model are: measured on the trajectories that its own sampler walks.

The float graphs of a bundle are written once more, with outputs that tell the ends and a sample of every
value that a quantizer needs, and drawn with as users draw.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgediff import tasks
from edgediff.bundle import Bundle
from edgediff.errors import NumericError, UnsupportedError
from edgediff.export.emit.graph import Graph, Kind, Value
from edgediff.export.emit.integers import Span, observed
from edgediff.export.families.parts import Model
from edgediff.export.quantize import budget as budgets
from edgediff.export.quantize import scenes
from edgediff.export.quantize.budget import Course, course
from edgediff.export.quantize.plan import Plan
from edgediff.export.quantize.prompts import CAPTIONS
from edgediff.export.quantize.ranges import Seen, least_error, with_room
from edgediff.export.quantize.tapped import tapped
from edgediff.export.quantize.trajectory import PICTURES, Array, Watched, asked, decode, draw, encode
from edgediff.runtime import Tensor
from edgediff.step_cache import ROLE as SHALLOW

Say = Callable[[str], None]
# What is also drawn without pictures that steer.
_UNSTEERED = ("denoiser", "decoder", "tiny_decoder", "encoder")
_SIDE, _SCENES = 256, 2  # pixels of a side, at most, and number of pictures made by a rule


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found: ``seen`` and the ``spans`` made of it, by role and value id; and how it was drawn."""

    spans: Mapping[str, dict[int, Span]]
    seen: Mapping[str, dict[int, Seen]]
    course: Course | None


def calibrate(
    parent: Path,
    model: Model,
    plan: Plan,
    *,
    prompts: Sequence[str] | None = None,
    report: Say | None = None,
    threads: int | None = None,
) -> dict[str, dict[int, Span]]:
    """The spans that the int8 layers of ``plan`` need, by role and by value id; see :func:`observe`."""
    return dict(observe(parent, model, plan, prompts=prompts, report=report, threads=threads).spans)


def observe(
    parent: Path,
    model: Model,
    plan: Plan,
    *,
    prompts: Sequence[str] | None = None,
    report: Say | None = None,
    threads: int | None = None,
    budget: float = budgets.BUDGET,
) -> Calibration:
    """Draw with the float bundle ``parent`` and measure every value that int8 layers read, or kernels make.

    Prompts are those given, else edgediff's own captions, with the seeds 0, 1, 2, ... ``parent`` was written
    from ``model``; files are put into it and taken away. ``report`` receives a line per stage.

    Raises:
        NumericError: a value is NaN or infinite; the message names the layer.
        UnsupportedError: a layer is never reached by what the bundle's tasks draw.
    """
    graphs = {part.role: part.graph for part in model.parts if part.role != SHALLOW}
    wanted = {role: observed(graph, plan.choices(role)) for role, graph in graphs.items()}
    wanted = {role: values for role, values in wanted.items() if values}
    if not wanted:
        return Calibration({}, {}, None)
    say = report if report is not None else _silent
    bundle = Bundle.open(parent)
    parts = {part.role: part for part in model.parts}
    watch = _Watch({role: parts[role].graph for role in wanted}, wanted)
    with tapped(bundle, [parts[role] for role in wanted], wanted) as open_bundle, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = Watched(open_bundle, "cpu", options={"threads": threads, "scan": False}, verify=False)
        loaded.seen = watch
        try:
            chosen = _drawn(loaded, model, tuple(wanted), prompts, budget, say)
        finally:
            loaded.close()
    watch.check_reached()
    spans = {
        role: {id_: rule(each) for id_, each in found.items()}
        for role, found in watch.found.items()
        for rule in (least_error if _walks(parts[role].graph) else with_room,)
    }
    shallow = {SHALLOW: spans["denoiser"]} if "denoiser" in spans else {}  # its values are the denoiser's
    return Calibration({**spans, **shallow}, watch.found, chosen)


def _walks(graph: Graph) -> bool:
    """Whether a network is asked at every step of a walk, and not once for each picture."""
    return any(port.value.kind is Kind.TIME for port in graph.inputs)


def _drawn(
    parts: Watched, model: Model, roles: Sequence[str], prompts: Sequence[str] | None, budget: float, say: Say
) -> Course:
    """Draw what the budget allows: from text or pictures, and steered by them where networks can."""
    bundle, size = parts.bundle, parts.bundle.defaults.size
    steered = [False] if any(role in _UNSTEERED for role in roles) else []
    steered += [True] if any(role.startswith("control") for role in roles) else []
    words = list(CAPTIONS if prompts is None else prompts)
    scene = scenes.dead_leaves(size, 0)
    lines = scenes.edges(scene)

    def ask(which: Sequence[int], steps: int | None, control: bool) -> tasks.Request:
        own = [words[i % len(words)] for i in which]
        return asked(bundle, own, which, steps, scene, lines if control else None)

    pictured = any(role in PICTURES for role in roles)
    shown = _shown(bundle) if pictured and "encoder" in bundle.components else []
    work = budgets.work_of(model)
    share = sum(each.size for each in shown) / (3 * size["height"] * size["width"])
    rest = budget - share * sum(work.get(role, 0.0) for role in PICTURES)
    chosen = course(
        bundle, model, roles, lambda steps: ask([0], steps, steered[-1]), len(words), len(steered), rest
    )
    say(_told(chosen, bundle))
    requests = []
    for k, control in enumerate(steered):
        own = range(k, chosen.prompts, len(steered))
        for at in range(0, len(own), chosen.batch):
            requests.append(ask(own[at : at + chosen.batch], chosen.steps, control))
    drawn = list(draw(parts, requests, decoded=False))
    if pictured:
        known = encode(parts, shown)
        pictures = decode(parts, [*drawn, *known])[: len(drawn)]
        if "tiny_decoder" in roles:
            decode(parts, [*drawn, *known], "tiny")
        if "encoder" in roles:
            encode(parts, [np.clip(each, -1, 1) for each in pictures])
    return chosen


def _shown(bundle: Bundle) -> list[Array]:
    """Pictures that autoencoders see besides those drawn: few prompts show few colours."""
    factors, size = bundle.latents.downscale, bundle.defaults.size
    small = {axis: max(factor, min(size[axis], _SIDE) // factor * factor) for axis, factor in factors.items()}
    made = [scenes.dead_leaves(small, 1 + i) for i in range(_SCENES)]
    return [scenes.signed(each) for each in (*made, scenes.gradient(small))]


def _told(chosen: Course, bundle: Bundle) -> str:
    steps = bundle.defaults.num_inference_steps if chosen.steps is None else chosen.steps
    cut = "" if chosen.note is None else f" ({chosen.note})"
    return f"calibrating on {chosen.prompts} prompts, {steps} steps each{cut}, {chosen.work / 1e12:.1f} TFLOP"


class _Watch:
    """Takes the outputs of taps out of each pass and notes them."""

    def __init__(self, graphs: Mapping[str, Graph], tapped: Mapping[str, Sequence[Value]]) -> None:
        self._graphs = graphs
        self._passes = dict.fromkeys(tapped, 0)
        self.found = {role: {value.id: Seen() for value in values} for role, values in tapped.items()}

    def __call__(
        self, role: str, inputs: Mapping[str, Tensor], outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if role not in self.found:
            return outputs
        self._passes[role] += 1
        rows = max((len(each) for each in inputs.values() if each.ndim > 1), default=1)
        for number, seen in self.found[role].items():
            low, high, sample = (outputs.pop(f"tap.{number}.{what}") for what in ("low", "high", "sample"))
            if not (np.isfinite(low) and np.isfinite(high) and np.isfinite(sample).all()):
                raise NumericError(
                    f"{role}: {self._named(role, number)} holds NaN or Inf in pass {self._passes[role]} of "
                    "the float graph; the checkpoint is damaged, or made for other settings than it names."
                )
            seen.add(float(low), float(high), sample, rows)
        return outputs

    def _named(self, role: str, number: int) -> str:
        graph = self._graphs[role]
        for node in graph.nodes:
            if node.output.id == number:
                return f"the output of {node.scope or graph.name} ({node.op})"
        return next(f"the input {port.name}" for port in graph.inputs if port.value.id == number)

    def check_reached(self) -> None:
        """Refuse to go on where a graph was never run.

        Raises:
            UnsupportedError: there is one; the message names the layers that need it.
        """
        for role, passes in self._passes.items():
            if not passes:
                first = self._named(role, next(iter(self.found[role])))
                raise UnsupportedError(
                    f"{role}: nothing that this model's tasks draw runs it, so that {first} and "
                    f"{len(self.found[role]) - 1} values more have no range. Let its layers keep their "
                    "activations: int8-weights, or a plan."
                )


def _silent(line: str) -> None:
    """Report nothing."""
