"""Which layer of a quantized graph is furthest from its float twin, fed the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgediff.bundle import Bundle, GraphSpec
from edgediff.export.emit.graph import Node
from edgediff.export.emit.integers import LAYERS, Quantization
from edgediff.export.emit.onnx import emit
from edgediff.export.emit.onnx_builder import Storage
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.families.parts import Part
from edgediff.export.quantize.tapped import promptly, refer_alike
from edgediff.parts import Parts
from edgediff.quality import Tally
from edgediff.reference import Pass
from edgediff.retrace import only
from edgediff.runtime import Tensor


def worst_layer(
    parent: Bundle, quantized: Bundle, part: Part, quantization: Quantization, passes: Sequence[Pass]
) -> tuple[str, float] | None:
    """Return the quantized layer whose result is furthest from that of the float graph, and how far.

    The figure is the signal-to-noise ratio, in decibel, of a sample of the layer's results over ``passes``;
    it has in it what the layers before it changed. Both graphs are in ONNX Runtime's own form, but for what
    it says together. Files are put beside the weights of both bundles and taken away again. None where no
    layer is quantized.
    """
    chosen = [n for n in part.graph.nodes if quantization.choices.get(n.scope, "float") != "float"]
    layers = [node for node in chosen if node.op in LAYERS]
    if not layers or not passes:
        return None
    wanted = _samples(parent, part, layers, None, passes)  # one network in memory at a time
    found = _samples(quantized, part, layers, quantization, passes)
    tallies = {node.scope: Tally() for node in layers}
    for node in layers:
        for one, other in zip(wanted, found, strict=True):
            tallies[node.scope].add(one[node.scope], other[node.scope])
    scope = min(tallies, key=lambda each: tallies[each].snr_db)
    return scope, tallies[scope].snr_db


def _samples(
    bundle: Bundle,
    part: Part,
    layers: Sequence[Node],
    quantization: Quantization | None,
    passes: Sequence[Pass],
) -> list[dict[str, Tensor]]:
    """By pass, a sample of each layer's results."""
    with _tapped(bundle, part, layers, quantization) as parts:
        outputs = [parts.run(part.role, each.inputs) for each in passes]
    return [{node.scope: each[f"tap.{node.output.id}.sample"] for node in layers} for each in outputs]


@contextmanager
def _tapped(
    bundle: Bundle, part: Part, layers: Sequence[Node], quantization: Quantization | None
) -> Iterator[Parts]:
    """The part's graph over the bundle's weights, with samples of the layers' results as further outputs."""
    # What that form calls a weight comes first: another one may say it in another type.
    specs = sorted(bundle.components[part.role], key=lambda spec: spec.profile != ORT_CPU.name)
    storage: Storage = "fp16" if "fp16" in specs[0].precision else "fp32"
    taps = [node.output for node in layers]
    emitted = emit(part.graph, storage, ORT_CPU, quantization=quantization, taps=taps)
    refer_alike(emitted, [bundle.path / spec.file for spec in specs])
    promptly(emitted.model.graph)
    file = f"{part.folder}/apart_{part.file}.onnx"
    twin = GraphSpec("onnxruntime", ORT_CPU.name, file, specs[0].precision)
    parts = Parts(only(bundle, part.role, twin), "cpu", options={"scan": False}, verify=False)
    try:
        (bundle.path / file).write_bytes(emitted.model.SerializeToString())
        yield parts
    finally:
        parts.close()
        Path(bundle.path / file).unlink(missing_ok=True)
