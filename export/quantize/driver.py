"""A model becomes a quantized bundle: float parent, calibration, plan, integers, receipt, gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from edgediff import reference
from edgediff.errors import CheckFailed, InputError
from edgediff.export.bundle_folder import Content, Filled, fill
from edgediff.export.emit.integers import Quantization, Span, observed
from edgediff.export.emit.onnx import PORTABLE, Profile
from edgediff.export.emit.onnx_fused import ORT_CPU, ORT_CPU_AVX2
from edgediff.export.families.parts import Model
from edgediff.export.forms import forms_of
from edgediff.export.json_files import dump_json
from edgediff.export.quantize.calibrate import Calibration, observe
from edgediff.export.quantize.gates import judge
from edgediff.export.quantize.plan import REDUCED, SCHEMES, Plan
from edgediff.export.quantize.plan_file import FILE as RECIPE
from edgediff.export.quantize.plan_file import fitted, read_plan, to_json
from edgediff.export.quantize.prompts import EVALUATION, own_prompts, read_prompts
from edgediff.export.quantize.receipt import receipt
from edgediff.export.quantize.recording import record
from edgediff.export.quantize.repair import repaired
from edgediff.export.quantize.schemes import plan_of
from edgediff.export.quantize.search import least_bytes, search
from edgediff.export.quantize.tune import symmetric, tune
from edgediff.export.reduced import UNMEASURED, doubt, loss_told, row_spread
from edgediff.export.sources import Source
from edgediff.export.write import MANIFEST, Folder, new_folder, scratch_folder

MIXED_PSNR = 35.0
"""What a mixed plan holds where no bound is given: the gate that Apple's converter has for its own."""
# What stores and computes no integers, and so has no recipe.
_WITHOUT_LAYERS = ("fp16", REDUCED)
Say = Callable[[str], None]


class Quantizing(TypedDict, total=False):
    """The fields of :class:`Wanted`, as keyword arguments."""

    quantize: str | None
    calibration: str | None
    plan: str | None
    min_psnr: float | None
    max_size: float | None
    max_latency: float | None
    tune: bool
    force: bool
    receipt: bool
    explain: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to quantize.

    ``quantize`` names the scheme; ``calibration`` a file of prompts, ``plan`` a recipe written by an earlier
    export. ``min_psnr`` (decibel, of the final latents), ``max_size`` (megabytes of weights) and
    ``max_latency`` (seconds per pass of the denoiser) bound a mixed plan; ``min_psnr`` is a floor for every
    scheme. ``tune`` measures on this machine which form each layer gets. ``force`` keeps a bundle that fails
    its gates; ``receipt=False`` measures nothing and has no gates. ``explain`` adds ``explanation`` to the
    result: which layer got which form, and why.
    """

    quantize: str
    calibration: str | None = None
    plan: str | None = None
    min_psnr: float | None = None
    max_size: float | None = None
    max_latency: float | None = None
    tune: bool = False
    force: bool = False
    receipt: bool = True
    explain: bool = False


def wanted(options: Quantizing, attention: str | None = None) -> Wanted | None:
    """What the caller asks for; None where nothing is to be quantized, and nothing reduced and measured.

    Raises:
        InputError: an option is unknown, out of range, or goes with another scheme.
    """
    given = {name: value for name, value in options.items() if value not in (None, False)}
    if "receipt" in options and options["receipt"] is False:
        given["receipt"] = False
    scheme = options.get("quantize")
    if scheme is None and attention is not None and given.keys() <= {"receipt", "min_psnr", "force"}:
        scheme = given["quantize"] = REDUCED
    elif scheme is None:
        if given:
            raise InputError(f"{', '.join(given)}: only with quantize; choose one of {', '.join(SCHEMES)}.")
        return None
    if scheme not in (*SCHEMES, REDUCED):
        raise InputError(f"quantize {scheme!r}: known are {', '.join(SCHEMES)}.")
    made = Wanted(**given)  # type: ignore[arg-type]
    bounds = {"min_psnr": made.min_psnr, "max_size": made.max_size, "max_latency": made.max_latency}
    for name, bound in bounds.items():
        if bound is not None and not 0 < bound < float("inf"):
            raise InputError(f"{name} {bound}: expected a number above 0.")
    if scheme != "mixed" and (made.max_size is not None or made.max_latency is not None):
        raise InputError("max_size and max_latency choose a mixed plan; ask for quantize 'mixed'.")
    if scheme == "mixed" and made.plan is None and not any(bounds.values()):
        made = replace(made, min_psnr=MIXED_PSNR)
    for name, path in (("calibration", made.calibration), ("plan", made.plan)):
        if path is not None and not Path(path).is_file():
            raise InputError(f"{name}: {path}: no such file.")
    return made


def write_quantized(
    source: Source,
    model: Model,
    out: Path,
    asked: Wanted,
    floats: Content,
    overwrite: bool,
    say: Say,
    whole: Model | None = None,
) -> dict[str, Any]:
    """Write the bundle whole, or nothing. ``floats`` is what stays of the export without integers.

    ``whole`` is the model before its attention was reduced, where it was: what all is measured against.

    The result: as ``export_onnx`` says.

    Raises:
        CheckFailed: the result fails a gate, and ``asked.force`` is not set; the message has the figures.
    """
    plan = first_plan(asked, model)
    _possible(asked, plan, model, floats)
    with scratch_folder(out) as scratch:
        parent = scratch / "parent"
        say("writing the float parent, which is measured against")
        _write_parent(parent, source, model if whole is None else whole)
        decided = _decided(asked, plan, source, model, parent, say)
        content = _content(asked, floats, decided)
        with new_folder(out, overwrite) as folder:
            filled = fill(folder, source, model, content, say)
            if asked.quantize not in _WITHOUT_LAYERS:
                folder.write(RECIPE, to_json(decided.plan))
            quality = (
                _proven(folder, filled, parent, source, model, decided, asked, say) if asked.receipt else None
            )
            folder.write(MANIFEST, _manifest(folder, filled, quality))
        doubts = _doubts(model, asked)
        for note in doubts:
            say(f"note: {note}")
    total = sum(int(facts["bytes"]) for facts in folder.files.values())
    return {
        "bundle": str(out),
        "bytes": total,
        "files": len(folder.files),
        "precision": content.precision,
        "ran": filled.ran,
        "quality": quality,
        "notes": [*model.notes, *filled.notes, *decided.notes, *doubts],
        **({"explanation": _explained(model, decided)} if asked.explain else {}),
    }


def _doubts(model: Model, asked: Wanted) -> list[str]:
    """What is to be said of the loss of reduced attention."""
    if "attention" not in model.facts:
        return []
    if not asked.receipt:
        return [UNMEASURED]
    said = doubt(row_spread(model))
    return [] if said is None else [said]


def _possible(asked: Wanted, plan: Plan, model: Model, floats: Content) -> None:
    """Refuse what no calibration and no search could change, before either.

    Raises:
        InputError: no mixed plan is so small. UnsupportedError: a profile has no form for a layer.
    """
    if asked.quantize in _WITHOUT_LAYERS:
        return
    if asked.max_size is not None and asked.plan is None:
        least = least_bytes(model) / 1e6
        if asked.max_size < least:
            raise InputError(
                f"max_size {asked.max_size:g} MB: the smallest plan has {least:.4g} MB of weights. "
                "Ask for more."
            )
    forms_of(model, floats.storage, _forms(floats.profiles, plan), _ahead(plan, model))


def _explained(model: Model, decided: _Decided) -> list[str]:
    from edgediff.export.quantize.explain import explain

    return list(explain(decided.plan, model, decided.quantizations))


def first_plan(asked: Wanted, model: Model) -> Plan:
    """The plan of a file, or that of the scheme; a mixed one begins as everything that int8 can be.

    Raises:
        InputError: the file is no recipe, or one for another model.
    """
    if asked.plan is not None:
        return fitted(read_plan(Path(asked.plan)), model)
    if asked.quantize == REDUCED:
        return Plan(REDUCED, {})
    return plan_of("int8" if asked.quantize == "mixed" else asked.quantize, model)


@dataclass(frozen=True, slots=True)
class _Decided:
    plan: Plan
    quantizations: Mapping[str, Quantization]
    notes: tuple[str, ...] = ()


def forecast_of(asked: Wanted, model: Model) -> tuple[dict[str, Quantization], str]:
    """What a dry run can know: the layers' codes, not what calibration will see; and the precision's name."""
    if asked.quantize == "mixed" and asked.plan is None:
        raise InputError("a mixed plan is known after its search; ask for a dry run with its plan file.")
    return _ahead(first_plan(asked, model), model), asked.quantize


def _ahead(plan: Plan, model: Model) -> dict[str, Quantization]:
    """What is said of a model before anything was seen of its values."""
    found = {}
    for part in model.parts:
        choices = plan.choices(part.role)
        spans = {value.id: Span(-1.0, 1.0) for value in observed(part.graph, choices)}
        found[part.role] = Quantization(choices, spans)
    return found


def _decided(asked: Wanted, plan: Plan, source: Source, model: Model, parent: Path, say: Say) -> _Decided:
    """Calibrate where layers compute in int8; choose a mixed plan; choose the forms of convolutions."""
    if asked.quantize in _WITHOUT_LAYERS:
        return _Decided(plan, {})
    prompts = own_prompts(source) if asked.calibration is None else read_prompts(Path(asked.calibration))
    seen = observe(parent, model, plan, prompts=prompts, report=say)
    tuned = tune(model, report=say) if asked.tune or asked.max_latency is not None else None
    vnni = {p.role: symmetric(p, model) if tuned is None else tuned.vnni[p.role] for p in model.parts}
    if asked.quantize == "mixed" and asked.plan is None:
        plan = search(
            parent, model, seen.spans, tuned=tuned, min_psnr=asked.min_psnr, max_size=asked.max_size,
            max_latency=asked.max_latency, prompts=prompts, evaluation=own_prompts(source, EVALUATION),
            report=say,
        )  # fmt: skip
    else:
        plan = plan if tuned is None else tuned.applied(plan, model)
        if asked.plan is None:
            plan = repaired(parent, model, plan, seen.spans, vnni, prompts=prompts, report=say)
    found = {
        part.role: Quantization(plan.choices(part.role), seen.spans.get(part.role, {}), vnni[part.role])
        for part in model.parts
    }
    return _Decided(plan, found, _noted(seen))


def _noted(seen: Calibration) -> tuple[str, ...]:
    """How it was calibrated, where that is not as the bundle draws by itself."""
    note = None if seen.course is None else seen.course.note
    return () if not note else (f"calibrated with {note}",)


def _proven(
    folder: Folder,
    filled: Filled,
    parent: Path,
    source: Source,
    model: Model,
    decided: _Decided,
    asked: Wanted,
    say: Say,
) -> dict[str, Any]:
    """Measure the bundle in ``folder`` against its parent and put it before the gates."""
    say("measuring it against its float parent")
    prompts = own_prompts(source, EVALUATION)
    folder.write(reference.FILE, record(parent, model, prompts=prompts, report=say))
    provisional = folder.path / MANIFEST
    provisional.write_bytes(_manifest(folder, filled, None))
    try:
        told = receipt(
            parent,
            folder.path,
            model,
            decided.plan,
            decided.quantizations,
            min_psnr=asked.min_psnr,
            report=say,
        )
    finally:
        provisional.unlink()
    if "attention" in model.facts:
        told |= loss_told(model)
    reasons = judge(told, asked.quantize, min_psnr=asked.min_psnr)
    if reasons and not asked.force:
        raise CheckFailed(
            f"{_called(asked)} does not serve its purpose here: {'; '.join(reasons)}. "
            "Nothing was written; --force keeps such a bundle."
        )
    return {**told, "failed": reasons} if reasons else told


def _called(asked: Wanted) -> str:
    return "reduced attention" if asked.quantize == REDUCED else asked.quantize


def _write_parent(path: Path, source: Source, model: Model) -> None:
    path.mkdir()
    folder = Folder(path)
    filled = fill(folder, source, model, Content("fp32", (PORTABLE, ORT_CPU), "fp32", verify=False), _quiet)
    folder.write(MANIFEST, _manifest(folder, filled, None))


def _manifest(folder: Folder, filled: Filled, quality: Mapping[str, Any] | None) -> bytes:
    told = {} if quality is None else {"quality": quality}
    return dump_json({**filled.manifest, **told, "files": dict(sorted(folder.files.items()))})


def _content(asked: Wanted, floats: Content, decided: _Decided) -> Content:
    if asked.quantize == REDUCED:
        return floats
    if asked.quantize == "fp16":
        return replace(floats, storage="fp16", precision="fp16")
    return replace(
        floats,
        profiles=_forms(floats.profiles, decided.plan),
        precision=asked.quantize if floats.storage == "fp32" else f"{asked.quantize}+{floats.storage}",
        quantizations=decided.quantizations,
    )


def _forms(profiles: Sequence[Profile], plan: Plan) -> tuple[Profile, ...]:
    """The forms asked for, and where layers compute in int8 the one for processors that saturate."""
    computes = any(d.choice == "int8" for layers in plan.layers.values() for d in layers.values())
    named = {each.name: each for each in profiles}
    if computes and ORT_CPU.name in named:
        named[ORT_CPU_AVX2.name] = ORT_CPU_AVX2
    return tuple(named.values())


def _quiet(line: str) -> None:
    """Report nothing."""
