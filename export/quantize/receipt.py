"""The receipt of a quantized bundle: how far it is from its float parent, and how much less it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgediff import reference
from edgediff.bundle import Bundle, GraphSpec, suits
from edgediff.errors import BundleError
from edgediff.export.emit.integers import Quantization
from edgediff.export.families.parts import Model
from edgediff.export.forms import PROFILES
from edgediff.export.quantize.gates import floors
from edgediff.export.quantize.layers_apart import worst_layer
from edgediff.export.quantize.plan import Plan
from edgediff.footprint import ROUNDS, pair
from edgediff.machine import card
from edgediff.quality import stored
from edgediff.reference import Pass, Record
from edgediff.retrace import compare, drawn, only

Say = Callable[[str], None]
# Passes that show whether another form computes the same and which layer is furthest off, by size of model.
_FEW, _FEWEST = 2, 1


def receipt(
    parent: Path,
    quantized: Path,
    model: Model,
    plan: Plan,
    quantizations: Mapping[str, Quantization],
    *,
    min_psnr: float | None = None,
    timed: bool = True,
    rounds: int = ROUNDS,
    report: Say | None = None,
) -> dict[str, Any]:
    """Measure the bundle ``quantized``, which holds ``quality.npz``, against the float bundle ``parent``.

    The result is the manifest's entry ``quality``: the figures of :func:`edgediff.retrace.measure`; by
    component also ``worst_layer``, ``forms`` (of each: SNR where it runs here, and whether it was timed),
    bytes of weights, and ``taken``, what it and its parent take on ``machine``; ``floors``. Without ``timed``
    nothing is timed.

    Raises:
        BundleError: a graph is refused. CheckFailed: a graph reads or gives other tensors than its parent.
    """
    say = report if report is not None else _silent
    floating, bundle = Bundle.open(parent), Bundle.open(quantized)
    record = reference.read(bundle)
    parts = {part.role: part for part in model.parts}
    components: dict[str, Any] = {}
    few = _FEWEST if _cut_short(bundle, record) else _FEW
    for role in [role for role in bundle.components if any(each.role == role for each in record.passes)]:
        say(f"comparing {role} with its float parent")
        passes = [each for each in record.passes if each.role == role]
        component = compare(bundle, role, passes)
        component["forms"] = _forms(bundle, role, component, _spread(passes, few), timed)
        layers = quantizations.get(role, Quantization())
        worst = worst_layer(floating, bundle, parts[role], layers, _spread(passes, few))
        components[role] = {
            **component,
            "worst_layer": None if worst is None else {"name": worst[0], "snr_db": stored(worst[1])},
            "weights_bytes": _weights(bundle, [role]),
            "parent_weights_bytes": _weights(floating, [role]),
        }
    say(f"drawing {len(record.calls)} results at equal seeds")
    told = {"scheme": plan.scheme, "file": reference.FILE, "components": components, **drawn(bundle, record)}
    if timed:
        for role in components:
            say(f"timing {role} beside its float parent")
            mine, parents = pair(parent, quantized, role, rounds)[::-1]
            components[role] |= {"taken": mine, "parent_taken": parents}
        told["taken"] = _total(bundle, components)
    return {
        **told,
        "weights_bytes": _weights(bundle, bundle.components),
        "parent_weights_bytes": _weights(floating, bundle.components),
        "walked": _walked(record),
        "floors": floors(plan.scheme, list(components), min_psnr),
        "machine": card(),
    }


def _forms(
    bundle: Bundle, role: str, mine: Mapping[str, Any], passes: Sequence[Pass], timed: bool
) -> dict[str, Any]:
    """By profile: the SNR of the form, None where it does not run here, and whether it was timed."""
    found: dict[str, Any] = {}
    for spec in bundle.components[role]:
        if spec.profile == mine["form"]:
            found[spec.profile] = {"snr_db": mine["snr_db"], "timed": timed}
            continue
        reached = None
        if _runs_here(spec):
            reached = compare(only(bundle, role, spec), role, passes, "cpu")["snr_db"]
        found[spec.profile] = {"snr_db": reached, "timed": False}
    return found


def _runs_here(spec: GraphSpec) -> bool:
    """Whether ONNX Runtime's CPU provider computes this form, on this processor, for any size."""
    profile = PROFILES.get(spec.profile)
    return suits(spec) and profile is not None and not profile.fixed and not profile.half


def _spread(passes: Sequence[Pass], count: int) -> list[Pass]:
    """Some passes, from the first to the last."""
    last = len(passes) - 1
    places = dict.fromkeys(round(i * last / max(1, count - 1)) for i in range(min(count, len(passes))))
    return [passes[place] for place in places]


def _weights(bundle: Bundle, roles: Any) -> int:
    """Bytes of the weights files of some roles, each counted once."""
    names = {name for role in roles for spec in bundle.components[role] for name in spec.weights}
    return sum(bundle.files[name].bytes for name in names)


def _total(bundle: Bundle, components: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of one result without guidance, and the memory of the graphs that make it, of both."""
    steps = bundle.defaults.num_inference_steps
    times = {role: 1 for role in (*bundle.text_roles, "decoder") if role in components}
    times |= {"denoiser": steps} if "denoiser" in components else {}
    if not times:
        raise BundleError(f"{bundle.path}: there is no network in it that makes a result.")

    def seconds(key: str) -> float:
        medians = {role: float(components[role][key]["pass_s"]["median"]) for role in times}
        return sum(medians[role] * count for role, count in times.items())

    def memory(key: str) -> int | None:
        ends = [(components[role][key][k] for k in ("peak_rss_bytes", "base_rss_bytes")) for role in times]
        pairs = [tuple(each) for each in ends]
        return None if any(None in each for each in pairs) else sum(peak - base for peak, base in pairs)

    return {
        "seconds": round(seconds("taken"), 5),
        "parent_seconds": round(seconds("parent_taken"), 5),
        "rss_bytes": memory("taken"),
        "parent_rss_bytes": memory("parent_taken"),
        "passes": times,
    }


def _cut_short(bundle: Bundle, record: Record) -> bool:
    """Whether the model is so large that fewer steps were walked than it is made for."""
    steps = bundle.defaults.num_inference_steps
    return int(record.settings.get("num_inference_steps", steps)) < steps


def _walked(record: Record) -> dict[str, Any]:
    """How the results that were compared were made."""
    return {"prompts": len(record.calls), **record.settings}


def _silent(line: str) -> None:
    """Report nothing."""
