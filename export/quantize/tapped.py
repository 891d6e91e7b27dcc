"""A float bundle whose graphs also tell of some of their values, for as long as somebody looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import helper

from edgediff.bundle import Bundle, GraphSpec
from edgediff.export.emit.graph import Value
from edgediff.export.emit.onnx import Emitted, emit
from edgediff.export.emit.onnx_builder import Storage
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.families.parts import Part

_INNER = "before/"


@contextmanager
def tapped(bundle: Bundle, parts: Sequence[Part], values: Mapping[str, Sequence[Value]]) -> Iterator[Bundle]:
    """The bundle with ``parts`` in a form that gives the outputs of taps on ``values`` (by role) as well.

    The forms are those for ONNX Runtime's CPU provider, over the weights that lie there. Their files are put
    into the bundle's folders and are gone afterwards; nothing is compared with the manifest, which does not
    know them.
    """
    components = dict(bundle.components)
    files: list[Path] = []
    try:
        for part in parts:
            spec = bundle.graph(part.role, "onnxruntime", "cpu")
            storage: Storage = "fp16" if "fp16" in spec.precision else "fp32"
            emitted = emit(part.graph, storage, ORT_CPU, taps=values[part.role])
            refer_alike(emitted, [bundle.path / each.file for each in (spec, *bundle.components[part.role])])
            promptly(emitted.model.graph)
            file = f"{part.folder}/tapped_{part.file}.onnx"
            files.append(bundle.path / file)
            files[-1].write_bytes(emitted.model.SerializeToString())
            components[part.role] = (GraphSpec("onnxruntime", ORT_CPU.name, file, spec.precision),)
        yield replace(bundle, components=components, files={})
    finally:
        for each in files:
            each.unlink(missing_ok=True)


def refer_alike(emitted: Emitted, forms: Sequence[Path]) -> None:
    """Give a model its initializers, as those are said in the bundle's own forms of the graph."""
    known: dict[str, onnx.TensorProto] = {}
    for form in forms:
        for entry in onnx.load(str(form), load_external_data=False).graph.initializer:
            known.setdefault(entry.name, entry)
    for each in emitted.stored:
        entry = emitted.model.graph.initializer.add()
        entry.CopyFrom(known[each.initializer])
        entry.ClearField("dims")
        entry.dims.extend(each.shape)


def promptly(graph: onnx.GraphProto) -> None:
    """Put the nodes of taps in an order in which ONNX Runtime runs each as soon as its value is there.

    It walks up from the nodes that nobody reads, the last one first, so the taps of early values must come
    last; else every tapped value stays in memory until the network has run (an autoencoder's decoder took
    3.5 times as much, and twice as long). What the network itself gives must not come after them, as it would
    where an optimizer replaces the last node: a maximum of one tensor, which none does, stands behind it.
    """
    nodes = list(graph.node)
    starts = [i for i, node in enumerate(nodes) if node.output[0].startswith("tap.") and _is_first(node)]
    if not starts:
        return
    bounds = zip(starts, [*starts[1:], len(nodes)], strict=True)
    taps = [nodes[first:last] for first, last in bounds]
    given = {port.name for port in graph.output if not port.name.startswith("tap.")}
    for node in nodes:
        for tensors in (node.input, node.output):
            for i, tensor in enumerate(tensors):
                tensors[i] = _INNER + tensor if tensor in given else tensor
    passed_on = [
        helper.make_node("Max", [_INNER + port.name], [port.name], name=f"/{_INNER}{port.name}/Max")
        for port in graph.output
        if port.name in given
    ]
    ordered = [*nodes[: starts[0]], *passed_on, *(node for tap in reversed(taps) for node in tap)]
    del graph.node[:]
    graph.node.extend(ordered)


def _is_first(node: onnx.NodeProto) -> bool:
    return str(node.output[0]).endswith(".low")
