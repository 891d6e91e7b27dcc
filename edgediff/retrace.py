"""Walks the calls of a record again, and says how far a bundle is from its float parent."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff import media, reference, tasks
from edgediff.bundle import Bundle, GraphSpec, TensorSpec
from edgediff.errors import BundleError, CheckFailed, NumericError
from edgediff.parts import Parts
from edgediff.quality import MOST, Likeness, Tally, likeness, stored
from edgediff.reference import Array, Call, Pass, Record
from edgediff.runtime import Graph

Say = Callable[[str], None]
_LARGEST = 1.0  # the worst that a picture's structure can be is -1


class Lean(Parts):
    """Parts that hold one network at a time; those that steer stay with the one that they steer."""

    def graph(self, role: str) -> Graph:
        """Return a role's graph; whatever else was loaded is closed first."""
        if role not in self._graphs:
            for other in [r for r in self._graphs if not (_steers(r) and _steers(role))]:
                self._graphs.pop(other).close()
        return super().graph(role)

    def prefetch(self, roles: Sequence[str]) -> None:
        """Load nothing ahead."""


def _steers(role: str) -> bool:
    return role.startswith("control")


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of a call: the final latents and, where the task gives pictures, that of the call."""

    latents: Array
    picture: NDArray[np.uint8] | None


def requests(bundle: Bundle, record: Record) -> list[tasks.Request]:
    """The checked calls of a record.

    Raises:
        InputError: the bundle cannot be called so.
    """
    return [request(bundle, record.settings, record.given, call) for call in record.calls]


def request(
    bundle: Bundle, settings: Mapping[str, Any], given: Mapping[str, Array], call: Call
) -> tasks.Request:
    """One checked call of a record; a picture that steers is given to each network that does.

    Raises:
        InputError: the bundle cannot be called so.
    """
    shown: dict[str, Any] = {name: given[name] for name in call.given}
    if "control_image" in shown and len(bundle.controls) > 1:
        shown["control_image"] = [shown["control_image"]] * len(bundle.controls)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few steps may be none of the model's own settings
        return tasks.checked(bundle, call.prompt, seed=call.seed, **{**settings, **shown})


def walk(
    parts: Parts, asked: Sequence[tasks.Request], step: Callable[[int, int, int], None] | None = None
) -> Iterator[Drawn]:
    """Draw every call: first all texts, then all samples, then all pictures, so that each network is loaded
    once.

    ``step`` is told the call's number, that of the step that begins, and how many there are.

    Raises:
        NumericError: NaN or Inf, with stage and step.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prompt may be too long for a small tokenizer
        plans = [tasks.plan(parts, each) for each in asked]
    done: list[Array] = []
    for i, plan in enumerate(plans):
        x, walked = plan.x, iter(plan)
        for j in range(len(plan)):
            if step is not None:
                step(i, j, len(plan))
            x = next(walked).x
        done.append(x)
    shows = "decoder" in parts.bundle.components and len(parts.bundle.latents.axes) == 4
    for each, plan, x in zip(asked, plans, done, strict=True):
        shown = tasks.finished(each, media.unit_range(plan.decode(x))) if shows else None
        yield Drawn(x, None if shown is None else media.to_bytes(shown)[0])


def measure(
    bundle: Bundle, device: str = "auto", report: Say | None = None, runtime: str = "auto"
) -> dict[str, Any]:
    """Say how far ``bundle`` is from its float parent, by what was recorded of the parent at export.

    The result: ``components``, by role ``snr_db`` and ``psnr_db`` (the worst of its outputs, each over all
    recorded passes; peak: the parent's range), ``passes``, ``form`` and ``provider``; of the whole pipeline
    at equal seeds ``latents_psnr_db`` and ``latents_snr_db``, and ``pictures`` (``psnr_db``, ``ssim``,
    ``lowest_ssim``) or None where the task gives none. Ratios are bounded as :func:`quality.stored` says.

    Raises:
        UnsupportedError: nothing was recorded. BundleError: the record or a graph is refused.
        CheckFailed: a graph reads other inputs or gives other shapes than its parent.
    """
    record = reference.read(bundle)
    components = {}
    seen = {each.role for each in record.passes}
    for role in [role for role in bundle.components if role in seen]:
        if report is not None:
            report(f"comparing {role}")
        passes = [each for each in record.passes if each.role == role]
        components[role] = compare(bundle, role, passes, device, runtime)
    if report is not None:
        report(f"drawing {len(record.calls)} results at equal seeds")
    return {"components": components, **drawn(bundle, record, device, runtime)}


def compare(
    bundle: Bundle, role: str, passes: Sequence[Pass], device: str = "auto", runtime: str = "auto"
) -> dict[str, Any]:
    """Run recorded passes of one role; see :func:`measure`.

    Raises:
        BundleError: the graph is refused. CheckFailed: its inputs or shapes are others.
    """
    parts = Parts(bundle, device, runtime, verify=False)
    try:
        info = parts.graph(role).info
        tallies: dict[str, Tally] = {}
        for each in passes:
            found = parts.run(role, _feeds(each, info.inputs, f"{bundle.path}: {role}"))
            for name, wanted in each.outputs.items():
                if name not in found:
                    raise CheckFailed(f"{bundle.path}: {role} has no output {name}; its float parent does.")
                value = wanted.pick(found[name], f"{role}: {name}")
                tallies.setdefault(name, Tally()).add(wanted.values, value)
    finally:
        parts.close()
    return {
        "snr_db": stored(min(tally.snr_db for tally in tallies.values())),
        "psnr_db": stored(min(tally.psnr_db for tally in tallies.values())),
        "passes": len(passes),
        "form": info.profile,
        "provider": info.provider,
    }


def _feeds(each: Pass, inputs: Sequence[TensorSpec], where: str) -> dict[str, Array]:
    """A recorded pass's inputs in the types that a graph reads."""
    missing = [spec.name for spec in inputs if spec.name not in each.inputs]
    if missing:
        raise CheckFailed(f"{where} reads {', '.join(missing)}, which its float parent does not.")
    return {spec.name: each.inputs[spec.name].astype(spec.dtype, copy=False) for spec in inputs}


def drawn(bundle: Bundle, record: Record, device: str = "auto", runtime: str = "auto") -> dict[str, Any]:
    """Draw the calls of a record and compare what comes out; see :func:`measure`."""
    parts = Lean(bundle, device, runtime, verify=False)
    tally = Tally()
    pictures: list[NDArray[np.uint8]] = []
    wanted = [call.picture for call in record.calls if call.picture is not None]
    try:
        for call, found in zip(record.calls, walk(parts, requests(bundle, record)), strict=True):
            tally.add(call.latents, found.latents)
            if call.picture is not None and found.picture is not None:
                pictures.append(found.picture)
    except NumericError:
        lost = Likeness(-MOST, -_LARGEST, -_LARGEST).stored() if wanted else None
        return {"latents_psnr_db": -MOST, "latents_snr_db": -MOST, "pictures": lost}
    finally:
        parts.close()
    if len(pictures) != len(wanted):
        raise BundleError(f"{bundle.path}: it gives no pictures; its float parent does.")
    return {
        "latents_psnr_db": stored(tally.psnr_db),
        "latents_snr_db": stored(tally.snr_db),
        "pictures": likeness(wanted, pictures).stored() if wanted else None,
    }


def only(bundle: Bundle, role: str, spec: GraphSpec) -> Bundle:
    """The bundle with one form of one role, whatever the device would be given."""
    return replace(bundle, components={**bundle.components, role: (spec,)}, profiles={})


def below(found: Mapping[str, Any], floors: Mapping[str, Any]) -> list[str]:
    """What of a measurement is under its floor, a line each; ``floors`` as the manifest holds them."""
    reasons = []
    for role, floor in floors.get("snr_db", {}).items():
        value = found["components"].get(role, {}).get("snr_db")
        if value is not None and value < floor:
            reasons.append(f"{role}: SNR {told_db(value)}, the floor is {floor:g} dB")
    shown = found.get("pictures") or {}
    for name, value, key in (
        ("final latents: PSNR", found.get("latents_psnr_db"), "latents_psnr_db"),
        ("final latents: SNR", found.get("latents_snr_db"), "latents_snr_db"),
        ("pictures: PSNR", shown.get("psnr_db"), "pictures_psnr_db"),
    ):
        floor = floors.get(key)
        if value is not None and floor is not None and value < floor:
            reasons.append(f"{name} {told_db(value)}, the floor is {floor:g} dB")
    value, floor = shown.get("ssim"), floors.get("pictures_ssim")
    if value is not None and floor is not None and value < floor:
        reasons.append(f"pictures: SSIM {value:.3f}, the floor is {floor:g}")
    return reasons


def told_db(ratio: float) -> str:
    """A ratio in decibel as a message has it."""
    return "not finite" if ratio <= -MOST else f"{ratio:.1f} dB"
