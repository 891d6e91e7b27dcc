"""Which form each layer gets, by a rule or measured on this machine.

On processors with a matrix unit (AMX) a convolution reaches it only if its weights' zero point is not 0; with
symmetric weights it takes the vector instructions instead (VNNI), which is faster where few channels at a
large size make the copying of patches (im2col) dearer than the product.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from math import prod
from typing import Any

from edgediff.cpu import features
from edgediff.export.emit.graph import Graph, Node
from edgediff.export.emit.integers import Choice
from edgediff.export.emit.sizes import sizes
from edgediff.export.families.parts import Model, Part
from edgediff.export.json_files import dump_json
from edgediff.export.quantize.alone import Shape, shape_of, work
from edgediff.export.quantize.extents import default_extents
from edgediff.export.quantize.latency import Form, Stopwatch
from edgediff.export.quantize.plan import Decision, Plan
from edgediff.export.quantize.positions import Position, layers_of, positions, weight_of
from edgediff.export.quantize.schemes import agreed
from edgediff.threads import available_threads

FORMAT = "edgediff-tuned/1"
# Measured on a Xeon with AMX and two threads, all shapes of Stable Diffusion 1.5: from these places of the
# output on, symmetric weights win below these output channels, and in kernels of one place.
_CHANNELS, _PLACES = 192, 128 * 128
# A form must be this much faster, and by this many seconds, before it takes the place of another.
_MARGIN, _LEAST = 1.05, 2e-5
_TOLD = frozenset(("x86-64", "arm64", "avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"))
_COMPUTED: tuple[Choice, ...] = ("float", "int8")
_TIMED = (Position.TEXT, Position.CONDITION, Position.POINT, Position.KERNEL, Position.PRODUCT)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was measured: by role, which convolutions are faster with symmetric weights, and the seconds that
    each layer takes in one pass under each choice (int8 in its faster form)."""

    vnni: Mapping[str, frozenset[str]]
    seconds: Mapping[str, Mapping[str, Mapping[Choice, float]]]
    shapes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, plan: Plan, model: Model) -> Plan:
        """The plan without the layers whose int8 form is slower here than float: they stay float."""
        decided = {
            role: {scope: self._faster(role, scope, decision) for scope, decision in layers.items()}
            for role, layers in plan.layers.items()
        }
        return replace(plan, layers=agreed(model, decided))

    def _faster(self, role: str, scope: str, decision: Decision) -> Decision:
        taken = self.seconds.get(role, {}).get(scope, {})
        if decision.choice != "int8" or not {"int8", "float"} <= taken.keys():
            return decision
        ours, plain = taken["int8"], taken["float"]
        if ours <= _MARGIN * plain + _LEAST:
            return decision
        return Decision("float", f"measured here: int8 takes {ours * 1e3:.3g} ms, float {plain * 1e3:.3g} ms")

    def to_json(self) -> bytes:
        """The record: median seconds by shape of layer and form, and the machine."""
        return dump_json({"format": FORMAT, "machine": dict(self.machine), "seconds": dict(self.shapes)})


def symmetric(part: Part, model: Model, abilities: frozenset[str] | None = None) -> frozenset[str]:
    """The convolutions that a processor with these ``abilities`` (this one's) runs faster with symmetric
    weights: all of them where there is no matrix unit, otherwise those of few channels at large sizes."""
    abilities = features() if abilities is None else abilities
    known = sizes(part.graph, default_extents(model, part))
    kernels = list(_kernels(part.graph))
    if "x86-64" in abilities and "amx_int8" not in abilities:
        return frozenset(node.scope for node in kernels)
    return frozenset(
        node.scope
        for node in kernels
        if prod(known[node.output.id]) >= _PLACES
        and (weight_of(node).shape[0] < _CHANNELS or weight_of(node).shape[2:] == (1, 1))
    )


def _kernels(graph: Graph) -> Iterator[Node]:
    return (node for node in layers_of(graph) if node.op in ("conv", "downsample"))


def tune(
    model: Model,
    report: Callable[[str], None] | None = None,
    choices: tuple[Choice, ...] = _COMPUTED,
    threads: int | None = None,
    roles: Container[str] | None = None,
) -> Tuned:
    """Time every shape of layer that the model has, at its default size, in the forms of ``choices``.

    Layers that are not worth computing in integers (tables, single vectors, first and last ones) are left
    out; so are other ``roles`` than those given, if any are. A minute or so for a model of a billion weights.
    """
    shapes = {
        part.role: dict(_shapes(model, part)) if roles is None or part.role in roles else {}
        for part in model.parts
    }
    distinct = sorted({shape for each in shapes.values() for shape in each.values()}, key=work)
    watch = Stopwatch(threads)
    taken: dict[Shape, dict[Form, float]] = {}
    for shape in distinct:
        taken[shape] = watch.seconds(shape, _forms(shape, choices))
        if report is not None:
            report(f"timed {len(taken)} of {len(distinct)} shapes of layers: {shape}")
    vnni: dict[str, frozenset[str]] = {}
    seconds: dict[str, dict[str, dict[Choice, float]]] = {}
    for part in model.parts:
        own = {scope: taken[shape] for scope, shape in shapes[part.role].items()}
        seconds[part.role] = {scope: _best(each) for scope, each in own.items()}
        if "int8" in choices:
            unmeasured = symmetric(part, model) - own.keys()
            vnni[part.role] = unmeasured | {scope for scope, each in own.items() if _prefers(each)}
    named = {str(shape): _named(each) for shape, each in taken.items()}
    return Tuned(vnni, seconds, named, _machine(threads))


def _shapes(model: Model, part: Part) -> Iterator[tuple[str, Shape]]:
    known = sizes(part.graph, default_extents(model, part))
    places = positions(part.graph)
    for node in layers_of(part.graph):
        if places[node.scope] in _TIMED:
            yield node.scope, shape_of(part.graph, node, known)


def _forms(shape: Shape, choices: Sequence[Choice]) -> list[Form]:
    """What is timed; a kernel of one place beside tokens is said as a product, which has one form."""
    kernel = shape.op != "linear" and shape.beside not in ("to_tokens", "to_image")
    both: list[Form] = [("int8", True)] if kernel and "int8" in choices else []
    return [*((choice, False) for choice in choices), *both]


def _prefers(taken: Mapping[Form, float]) -> bool:
    """Whether symmetric weights are faster by more than chance."""
    one, other = taken.get(("int8", True)), taken.get(("int8", False))
    return one is not None and other is not None and other > _MARGIN * one


def _best(taken: Mapping[Form, float]) -> dict[Choice, float]:
    found: dict[Choice, float] = {}
    for (choice, _), seconds in taken.items():
        found[choice] = min(seconds, found.get(choice, seconds))
    return found


def _named(taken: Mapping[Form, float]) -> dict[str, float]:
    return {
        f"{choice} symmetric" if is_symmetric else choice: float(f"{seconds:.4g}")
        for (choice, is_symmetric), seconds in taken.items()
    }


def _machine(threads: int | None) -> dict[str, Any]:
    return {
        "processor": sorted(features() & _TOLD),
        "onnxruntime": metadata.version("onnxruntime"),
        "threads": available_threads() if threads is None else threads,
    }
