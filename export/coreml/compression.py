"""Which scheme each network's weights get, and what has to be looked at first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgediff.errors import InputError
from edgediff.export.coreml.options import MIXED, Wanted
from edgediff.export.coreml.schemes import BYTES, PALETTES, Scheme
from edgediff.export.emit.graph import Graph, Kind
from edgediff.export.emit.integers import Quantization
from edgediff.export.emit.mil import mil_name
from edgediff.export.families.parts import Model, Part
from edgediff.export.quantize.calibrate import observe
from edgediff.export.quantize.positions import Position, layers_of, positions, weight_of
from edgediff.export.quantize.prompts import EVALUATION, own_prompts, read_prompts
from edgediff.export.quantize.repair import repaired
from edgediff.export.quantize.schemes import plan_of
from edgediff.export.quantize.tune import symmetric
from edgediff.export.sources import Source

if TYPE_CHECKING:
    from edgediff.export.coreml.mixed import BitPlan

Say = Callable[[str], None]
_COARSE = 4  # bits


@dataclass(frozen=True, slots=True)
class Compression:
    """``schemes`` by role: one for all of a network's weights, or by constant's name, or None.

    ``quantizations`` are of networks whose layers compute with integers; ``plan`` is a mixed plan that was
    found.
    """

    schemes: Mapping[str, Scheme | Mapping[str, Scheme] | None] = field(default_factory=dict)
    quantizations: Mapping[str, Quantization] = field(default_factory=dict)
    plan: BitPlan | None = None
    notes: tuple[str, ...] = ()


def possible(asked: Wanted, model: Model) -> None:
    """Refuse what no search could change, before any work.

    Raises:
        InputError: the plan is of another model, or no mixed plan is so small.
        UnsupportedError: the plan needs a later system than the target.
    """
    if asked.quantize != MIXED:
        return
    from edgediff.export.coreml.mixed import consts, least_bytes
    from edgediff.export.coreml.mixed_plan import palettes_for

    if asked.plan is not None:
        plan = _read(asked.plan, model)
        for part in model.parts:
            consts(plan, part, asked.target)
    elif asked.max_size is not None:
        schemes = palettes_for(asked.target, asked.granularity, asked.group_size)
        least = least_bytes(model, schemes) / 1e6
        if asked.max_size < least:
            raise InputError(
                f"max_size {asked.max_size:g} MB: the smallest plan has {least:.4g} MB of weights. "
                "Ask for more."
            )


def decide(asked: Wanted, source: Source, model: Model, parent: Path | None, say: Say) -> Compression:
    """Choose the schemes; ``parent`` is the float ONNX bundle that calibration and searches draw with."""
    scheme = asked.scheme
    if scheme is None:
        return Compression()
    if asked.quantize == MIXED:
        return _mixed(asked, source, model, parent, say)
    quantizations: Mapping[str, Quantization] = {}
    notes: tuple[str, ...] = ()
    if scheme.kind == "activations" and parent is not None:
        quantizations, notes = _computed(asked, source, model, parent, say)
    return Compression({p.role: _scheme_for(p, scheme) for p in model.parts}, quantizations, notes=notes)


def _scheme_for(part: Part, scheme: Scheme) -> Scheme:
    """Text encoders and autoencoders, a tenth of all weights, have 8 bits where denoisers have 4 or fewer:
    in 4 bits they made as much of the error as the whole denoiser (``edgediff.export.quantize.schemes``)."""
    if scheme.bits > _COARSE or _walks(part):
        return scheme
    return PALETTES[8] if scheme.kind == "palette" else BYTES


def edges(graph: Graph) -> frozenset[str]:
    """The constants of layers next to the picture or the latents, which stay float under a uniform scheme:
    they hold few weights, and every error in them is seen."""
    places = positions(graph)
    kept = (Position.FIRST, Position.LAST, Position.THIN)
    return frozenset(mil_name(weight_of(n).name) for n in layers_of(graph) if places[n.scope] in kept)


def _walks(part: Part) -> bool:
    return any(port.value.kind is Kind.TIME for port in part.graph.inputs)


def _prompts(asked: Wanted, source: Source) -> list[str] | None:
    found = own_prompts(source) if asked.calibration is None else read_prompts(Path(asked.calibration))
    return None if found is None else list(found)


def _computed(
    asked: Wanted, source: Source, model: Model, parent: Path, say: Say
) -> tuple[dict[str, Quantization], tuple[str, ...]]:
    """The layers that compute in int8, and the spans of what they read."""
    prompts, plan = _prompts(asked, source), plan_of("int8", model)
    seen = observe(parent, model, plan, prompts=prompts, report=say)
    vnni = {part.role: symmetric(part, model) for part in model.parts}
    plan = repaired(parent, model, plan, seen.spans, vnni, prompts=prompts, report=say)
    found = {p.role: Quantization(plan.choices(p.role), seen.spans.get(p.role, {})) for p in model.parts}
    note = None if seen.course is None else seen.course.note
    return found, () if not note else (f"calibrated with {note}",)


def _mixed(asked: Wanted, source: Source, model: Model, parent: Path | None, say: Say) -> Compression:
    from edgediff.export.coreml.mixed import consts, recipe

    if asked.plan is not None:
        plan = _read(asked.plan, model)
    elif parent is None:
        raise ValueError("a mixed plan is searched for with a float parent, and there is none")
    else:
        plan = recipe(
            parent, model, target=asked.target, min_psnr=asked.min_psnr, max_size=asked.max_size,
            granularity=asked.granularity, group_size=asked.group_size, prompts=_prompts(asked, source),
            evaluation=own_prompts(source, EVALUATION), report=say,
        )  # fmt: skip
    schemes = {part.role: consts(plan, part, asked.target) for part in model.parts}
    return Compression(schemes, plan=plan)


def _read(path: str, model: Model) -> BitPlan:
    from edgediff.export.coreml.plan_file import fitted, read_plan

    return fitted(read_plan(path), model, path)
