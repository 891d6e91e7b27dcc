"""The mixed-bit recipe: how many bits each layer's palette gets, by what they do to what is drawn.

Bounds are on the quality of what is drawn (the PSNR of the final latents against the float parent's at equal
seeds, and of what autoencoders make of equal inputs) and on the bytes of all weights. Where a quality is
asked for, the fewest bytes that hold it are taken, and otherwise the best quality within the bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import CheckFailed, InputError
from edgediff.export.coreml.compress_codes import coded
from edgediff.export.coreml.mixed_choice import LATENTS, Chooser, Picked
from edgediff.export.coreml.mixed_errors import Measured, course_of, measure
from edgediff.export.coreml.mixed_plan import FLOAT, BitPlan, consts, palettes_for
from edgediff.export.coreml.mixed_storage import plan_bytes, weight_bytes, width_of
from edgediff.export.coreml.mixed_trials import Coded, DecodedTrials, Remembered, as_choices
from edgediff.export.coreml.mixed_units import Group, coded_layers, given_to, groups_of
from edgediff.export.coreml.options import MIXED_PSNR
from edgediff.export.coreml.schemes import Scheme
from edgediff.export.emit.mil_form import Target
from edgediff.export.families.parts import Model
from edgediff.export.quantize.drawings import Drawings, decibel
from edgediff.export.quantize.positions import layers_of
from edgediff.export.quantize.prompts import CAPTIONS
from edgediff.export.quantize.schemes import described
from edgediff.export.quantize.sensitivity import BUDGET
from edgediff.export.quantize.units import searched
from edgediff.export.quantize.whole import Whole

__all__ = ["BitPlan", "consts", "least_bytes", "recipe"]

_REST = "palette-8"  # what networks that are not looked at get: those that steer
_TURNS, _FEW_TURNS = 7, 3
_HALF = 0.5  # decibels of a floor that are left to half precision, which trials in float32 do not have
_RUN = 1 << 16
_MOST = 200.0  # decibels, which stand for no error at all
Say = Callable[[str], None]


def recipe(
    parent: Path,
    model: Model,
    *,
    target: Target,
    min_psnr: float | None = None,
    max_size: float | None = None,
    granularity: str | None = None,
    group_size: int | None = None,
    prompts: Sequence[str] | None = None,
    evaluation: Sequence[str] | None = None,
    budget: float = BUDGET,
    threads: int | None = None,
    report: Say | None = None,
) -> BitPlan:
    """The plan for ``model`` under the bounds; of no bound, ``min_psnr`` is ``MIXED_PSNR``. Deterministic.

    ``parent`` is its float32 ONNX bundle, into which files are put and taken away. ``min_psnr`` is in dB,
    ``max_size`` in megabytes of weights. ``prompts`` are drawn to find out how sensitive layers are,
    ``evaluation`` (those of the receipt) to measure the whole. ``budget`` is in floating-point operations.

    Raises:
        InputError: a bound is no number above 0, or no plan is so small; nothing was computed.
        UnsupportedError: ``target`` has no such palettes.
        CheckFailed: the quality that is asked for takes more bytes than are allowed.
    """
    say = report if report is not None else _silent
    if min_psnr is None and max_size is None:
        min_psnr = MIXED_PSNR
    schemes = palettes_for(target, granularity, group_size)
    _check(model, schemes, min_psnr, max_size)
    limit = None if max_size is None else max_size * 1e6
    began = time.perf_counter()
    known = Remembered(partial(_coded, schemes))
    trials = DecodedTrials(parent, model, known)
    with ExitStack() as closing:
        closing.callback(trials.close)
        words = list(CAPTIONS if prompts is None else prompts)
        course = course_of(trials, words[0], budget)
        say("trying palettes on every layer alone")
        groups = _groups(model, schemes, known, course.depths)
        drawings = Drawings(trials, words, course.walk, threads, typical=True)
        closing.callback(drawings.close)
        measured = measure(drawings, groups, course, say)
        whole = Whole(trials, evaluation, threads, say)
        others = None if course.coarse else lambda choices: decibel(drawings.worse(choices))
        chooser = Chooser(measured, whole, _FEW_TURNS if course.coarse else _TURNS, say, others)
        if min_psnr is not None:
            picked = chooser.holding(min_psnr + _HALF)
        else:
            picked = _fitting(model, schemes, chooser, groups, limit if limit is not None else 0.0)
        layers = _layers(model, groups, picked)
        reached = whole.psnr(as_choices({role: layers[role] for role in chooser.roles(LATENTS)}))
    size = plan_bytes(model, layers, schemes)
    megabytes = f"{size / 1e6:.4g} MB"
    if limit is not None and size > limit:
        raise CheckFailed(
            f"max_size {limit / 1e6:g} MB: {min_psnr:g} dB take {megabytes} of weights. Ask for less "
            "quality, or for more room."
        )
    taken = time.perf_counter() - began
    say(f"tried {trials.count} graphs in {taken:.0f} s: {reached:.1f} dB of final latents, {megabytes}")
    bounds = {"min_psnr": min_psnr, "max_bytes": limit}
    return BitPlan(
        layers,
        {part.role: {node.scope: node.op for node in layers_of(part.graph)} for part in model.parts},
        None if granularity is None else granularity.replace("_", "-"),
        group_size,
        _sensitivity(measured),
        {name: value for name, value in bounds.items() if value is not None},
        described(model),
    )


def least_bytes(model: Model, schemes: Mapping[str, Scheme]) -> int:
    """The bytes of all weights in the smallest plan that a recipe can be."""
    layers: dict[str, dict[str, str]] = {}
    looked = {part.folder for part in searched(model)}
    for part in model.parts:
        names = (FLOAT, *schemes) if part.folder in looked else (_REST,)
        given = layers[part.role] = {}
        for node in coded_layers(part.graph):
            sizes = {name: weight_bytes(node, schemes.get(name), width_of(model, part)) for name in names}
            given[node.scope] = min(sizes, key=sizes.__getitem__)
    return plan_bytes(model, layers, schemes)


def _check(
    model: Model, schemes: Mapping[str, Scheme], min_psnr: float | None, max_size: float | None
) -> None:
    for name, bound in (("min_psnr", min_psnr), ("max_size", max_size)):
        if bound is not None and not 0 < bound < float("inf"):
            raise InputError(f"{name} {bound}: expected a number above 0.")
    if max_size is not None:
        least = least_bytes(model, schemes) / 1e6
        if max_size < least:
            raise InputError(
                f"max_size {max_size:g} MB: the smallest plan has {least:.4g} MB of weights. Ask for more."
            )


def _groups(
    model: Model, schemes: Mapping[str, Scheme], known: Coded, depths: Mapping[str, int | None]
) -> list[Group]:
    found = []
    noise = partial(_noise, known)
    for part in searched(model):
        packages = [other for other in model.parts if other.folder == part.folder]
        found += groups_of(part, schemes, noise, width_of(model, part), depths[part.role], len(packages))
    return found


def _fitting(
    model: Model, schemes: Mapping[str, Scheme], chooser: Chooser, groups: Sequence[Group], limit: float
) -> Picked:
    """The best that the bytes allow; what no group has a part in is taken off first."""
    floats: Picked = {(group.role, group.name): FLOAT for group in groups}
    fixed = plan_bytes(model, _layers(model, groups, floats), schemes)
    found = chooser.fitting(limit - fixed + sum(group.bytes[FLOAT] for group in groups))
    if found is None:  # layers of one block get a scheme together, and some blocks are as small float
        raise CheckFailed(
            f"max_size {limit / 1e6:g} MB: no plan over blocks of layers is so small. Ask for more."
        )
    return found


def _layers(model: Model, groups: Sequence[Group], picked: Picked) -> dict[str, dict[str, str]]:
    """By role, what every layer gets: forms of one network the same, a rule for what was not looked at."""
    given, layers = given_to(groups, picked), {}
    looked = {part.folder: given.get(part.role, {}) for part in searched(model)}
    for part in model.parts:
        able = {node.scope for node in coded_layers(part.graph)}
        rest = FLOAT if part.folder in looked else _REST
        known = looked.get(part.folder, {})
        layers[part.role] = {
            node.scope: known.get(node.scope, rest) if node.scope in able else FLOAT
            for node in layers_of(part.graph)
        }
    return layers


def _sensitivity(measured: Sequence[Measured]) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for each in measured:
        found.setdefault(each.group.role, {})[each.group.name] = {
            name: round(min(_MOST, decibel(error)), 2) for name, error in each.errors.items() if name != FLOAT
        }
    return found


def _coded(schemes: Mapping[str, Scheme], weight: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    return coded(weight, schemes[name])


def _noise(known: Coded, weight: NDArray[np.float32], name: str) -> float:
    """The sum of squared errors; in runs, whose sums float32 holds."""
    error = (known(weight, name) - weight).ravel()
    return sum(float(np.dot(run, run)) for run in np.array_split(error, error.size // _RUN + 1))


def _silent(line: str) -> None:
    """Report nothing."""
