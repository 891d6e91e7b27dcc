"""The receipt of Core ML packages: what the interpreter of ML programs makes of them, against float32 ONNX.

Nothing here runs on a device. What is measured is that the programs that were written compute what the
checkpoint computes, in the arithmetic that they ask for; a device's own arithmetic may differ.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff import reference, retrace, runtime
from edgediff.bundle import Bundle, GraphSpec
from edgediff.export.coreml import gates
from edgediff.export.coreml.public import public
from edgediff.export.emit.flops import flops
from edgediff.export.emit.graph import Graph, Kind
from edgediff.export.emit.mil_form import MilForm, Signature
from edgediff.export.families.parts import Model, Part
from edgediff.export.quantize.budget import work_of
from edgediff.export.quantize.recording import record as recorded
from edgediff.export.quantize.trajectory import passes as passes_of
from edgediff.export.reduced import loss_told
from edgediff.machine import card
from edgediff.parts import Parts
from edgediff.quality import Tally, stored
from edgediff.reference import Array, Pass, Record, Sample

Say = Callable[[str], None]
PASSES_WORK, DRAWN_WORK = 4e12, 2e12
"""Floating-point operations of the passes of one network, and of all results that are drawn; about a minute
each for the interpreter on two cores."""
_MOST = 8  # passes of a network: more say nothing new


@dataclass(frozen=True, slots=True)
class Written:
    """A network as it was written.

    ``part`` has its recording, whole also where the network was cut; ``models`` are the model files of its
    packages in the order in which they run, ``files`` all their files; paths are relative to the folder.
    """

    part: Part
    form: MilForm
    signature: Signature
    models: tuple[str, ...]
    files: tuple[str, ...]
    precision: str

    @property
    def role(self) -> str:
        """The role that it has in a bundle."""
        return self.part.role

    @property
    def profile(self) -> str:
        """Its form's name in a manifest."""
        return self.form.attention.replace("_", "-")

    @property
    def spec(self) -> GraphSpec:
        """As a runtime is told of it."""
        first, *later = self.models
        others = tuple(name for name in self.files if name not in self.models)
        inputs, outputs = public(self.part.graph, self.signature)
        return GraphSpec(
            "coreml", self.profile, first, self.precision, inputs, outputs, others, stages=tuple(later)
        )


def measured_with(
    parent: Path, model: Model, written: Sequence[Written], prompts: Sequence[str] | None, say: Say
) -> Record:
    """Record what the float ONNX bundle ``parent`` gives, in the sizes that the packages have.

    Passes of another size (an encoder's, of the middle of a large picture) are made anew: the inputs are
    repeated to fill the size.
    """
    found = reference.parse(recorded(parent, model, prompts=prompts, report=say), reference.FILE)
    by_role = {each.role: each for each in written}
    kept = [each for each in found.passes if each.role in by_role]
    bundle = Bundle.open(parent)
    parts = Parts(bundle, "cpu", verify=False)
    try:
        fitting = [_fitted(each, by_role[each.role], parts) for each in kept]
    finally:
        parts.close()
    return replace(found, passes=fitting)


def _fitted(given: Pass, package: Written, parts: Parts) -> Pass:
    extents, graph = package.signature.extents[0], package.part.graph
    inputs, changed = dict(given.inputs), False
    for port in graph.inputs:
        want = tuple(extents.get(port.name, ()))
        if port.value.kind is Kind.IMAGE and inputs[port.name].shape[2:] != want:
            inputs[port.name], changed = _filled(inputs[port.name], want), True
    if not changed:
        return given
    outputs = parts.run(given.role, inputs)
    kept = {name: Sample.of(outputs[name], sample.channels) for name, sample in given.outputs.items()}
    return Pass(given.role, inputs, kept)


def _filled(picture: Array, extents: tuple[int, ...]) -> Array:
    height, width = extents
    down, across = (-(-want // have) for want, have in zip(extents, picture.shape[2:], strict=True))
    return np.ascontiguousarray(np.tile(picture, (1, 1, down, across))[:, :, :height, :width])


def prove(
    folder: Path,
    written: Sequence[Written],
    record: Record,
    model: Model,
    *,
    scheme: str,
    bytes_of: Mapping[str, int],
    bundle: Path | None = None,
    min_psnr: float | None = None,
    report: Say | None = None,
) -> dict[str, Any]:
    """Run every package in ``folder`` and compare it with what the float parent gave (``record``).

    ``bytes_of`` is by file. With ``bundle`` (the same folder, which then holds a manifest) the results at
    equal seeds are compared as well, where the interpreter can draw them in about a minute.
    The result is a manifest's entry ``quality``: ``components`` by role (``snr_db``, ``psnr_db``,
    ``apple_psnr_db`` with the largest magnitude as its peak, ``passes``, ``form``, ``provider``,
    ``weights_bytes``), the final latents and pictures or None, ``floors``, ``failed`` (why it should not be
    kept; empty where it should).

    Raises:
        UnsupportedError: the interpreter does not know an operation. BundleError: a package is damaged.
    """
    say = report if report is not None else _silent
    components = {}
    for each in written:
        passes = [one for one in record.passes if one.role == each.role]
        if passes:
            say(f"running {each.role} in the interpreter")
            components[each.role] = _compared(folder, each, passes)
            components[each.role]["weights_bytes"] = sum(bytes_of[name] for name in each.files)
    told: dict[str, Any] = {
        "scheme": scheme,
        "file": reference.FILE,
        "components": components,
        "latents_psnr_db": None,
        "latents_snr_db": None,
        "pictures": None,
    }
    if bundle is not None and _drawable(Bundle.open(bundle), record, model):
        say(f"drawing {len(record.calls)} results at equal seeds")
        told |= retrace.drawn(Bundle.open(bundle), record, runtime="mil")
    told |= {
        "weights_bytes": sum(each["weights_bytes"] for each in components.values()),
        "walked": {"prompts": len(record.calls), **record.settings},
        "floors": gates.floors(scheme, list(components), min_psnr, "attention" in model.facts),
        "machine": card(),
    }
    if "attention" in model.facts:
        told |= loss_told(model)
    return {**told, "failed": gates.judge(told, min_psnr=min_psnr)}


def _compared(folder: Path, package: Written, passes: Sequence[Pass]) -> dict[str, Any]:
    spec, graph = package.spec, package.part.graph
    loaded = runtime.find("mil").load(spec, folder / spec.file, "cpu", {}, {})
    work = flops(graph, package.signature.extents[0], package.signature.batch)["total"]
    chosen = passes[: max(1, min(_MOST, int(PASSES_WORK / max(work, 1))))]
    pairs: dict[str, list[tuple[Array, Array]]] = {}
    try:
        for each in chosen:
            found = _run(loaded, graph, package.signature, each.inputs)
            for name, wanted in each.outputs.items():
                if name in found:
                    value = wanted.pick(found[name], f"{package.role}: {name}")
                    pairs.setdefault(name, []).append((wanted.values, value))
        provider = loaded.info.provider
    finally:
        loaded.close()
    ratios = [_ratios(each) for each in pairs.values()]
    worst = {key: stored(min(each[key] for each in ratios)) for key in ratios[0]}
    return {**worst, "passes": len(chosen), "form": package.profile, "provider": provider}


def _run(
    loaded: runtime.Graph, graph: Graph, signature: Signature, inputs: Mapping[str, Array]
) -> dict[str, NDArray[Any]]:
    """What the graph's ONNX form would give, row by row of the signature's batch."""
    rowed = {port.name for port in graph.inputs if port.value.kind is not Kind.TIME}
    rows = max(len(value) for name, value in inputs.items() if name in rowed)
    found: dict[str, list[NDArray[Any]]] = {}
    for at in range(0, rows, signature.batch):
        cut = {
            n: v[at : at + signature.batch] if n in rowed and len(v) == rows else v for n, v in inputs.items()
        }
        given = min(signature.batch, rows - at)
        made = signature.results(graph, loaded(signature.feeds(graph, cut)))
        for name, value in made.items():
            found.setdefault(name, []).append(value[:given])
    return {name: np.concatenate(values) for name, values in found.items()}


def _ratios(pairs: Sequence[tuple[Array, Array]]) -> dict[str, float]:
    peak = max(float(np.abs(wanted).max()) for wanted, _ in pairs)
    ranged, largest = Tally(), Tally(peak if peak > 0 else 1.0)
    for wanted, value in pairs:
        ranged.add(wanted, value)
        largest.add(wanted, value)
    return {"snr_db": ranged.snr_db, "psnr_db": ranged.psnr_db, "apple_psnr_db": largest.psnr_db}


def _drawable(bundle: Bundle, record: Record, model: Model) -> bool:
    """Whether the interpreter draws the record's calls in about a minute."""
    work = work_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked = retrace.requests(bundle, record)
    total = 0.0
    for each in asked:
        rows = 2 if each.call.guided else 1
        total += passes_of(each) * rows * sum(work.get(role, 0.0) for role in each.call.denoisers)
        total += work.get("decoder", 0.0) + rows * sum(work[r] for r in work if r.startswith("text_encoder"))
    return total <= DRAWN_WORK


def _silent(line: str) -> None:
    """Report nothing."""
