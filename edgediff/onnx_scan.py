"""What a graph file may hold: read by our own hands before ONNX Runtime opens it.

A file that passes holds standard operators and a named few of ONNX Runtime's; no loop, no function, no
subgraph; nothing beside it but the weights that the manifest lists, each tensor in its place; no result whose
size constants prove absurd; and the inputs and outputs that the manifest states.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edgediff import links
from edgediff import onnx_tensors as tensors
from edgediff.bundle import GraphSpec
from edgediff.errors import BundleError, UnsupportedError
from edgediff.onnx_graph import read_graph
from edgediff.onnx_tensors import Tensor, shown
from edgediff.onnx_values import check_values
from edgediff.protobuf import LENGTH, VARINT, Buffer, Fault, Message, Span, signed, tag

MAX_GRAPH_BYTES = 64 << 20  # of what is not weights
MAX_FILE_BYTES = 2 << 30  # protobuf's own limit
IR_VERSIONS = range(3, 14)
OPSETS = range(7, 27)
MAX_IMPORTS = 64

_IR, _GRAPH, _OPSET, _METADATA = tag(1, VARINT), tag(7, LENGTH), tag(8, LENGTH), tag(14, LENGTH)
# The producer's name and version, a domain, a version and a text; and where devices are described.
_IGNORED = frozenset((*(tag(n, LENGTH) for n in (2, 3, 4, 6, 26)), tag(5, VARINT)))
_REFUSED = {tag(20, LENGTH): "training information", tag(25, LENGTH): "functions of its own"}
_GET = "get the file again, or export the model again"


class Report(NamedTuple):
    """What a scanned graph holds. ``external_files`` lie beside it; ``inline_bytes`` of weights are in it."""

    nodes: int
    initializers: int
    operators: Mapping[str, int]
    opsets: Mapping[str, int]
    ir_version: int
    external_files: tuple[Path, ...]
    inline_bytes: int


def scan(file: Path, spec: GraphSpec) -> Report:
    """Check the graph ``file``, which is ``spec.file`` of a bundle, without running or loading anything.

    Where ``spec`` states inputs, it is the manifest's: the graph must agree with it, and weights must be
    among those that it lists. Without a manifest, links are refused, since nothing says what they must hold.

    Raises:
        UnsupportedError: it is of a version of ONNX that is not read.
        BundleError: it is damaged, hostile, or not what the manifest says.
    """
    if not spec.inputs:
        links.refuse_link(file, spec.file)
    stream, receipt = links.open_regular(file)
    with stream:
        kind = links.wrong_kind(stream.read(64))
        if kind is not None:
            raise BundleError(f"{file}: expected an ONNX graph; this is {kind}.")
        if receipt.bytes > MAX_FILE_BYTES:
            raise BundleError(
                f"{file}: {receipt.bytes} bytes are more than the {MAX_FILE_BYTES} that a graph may have; "
                "export the model again with its weights beside the graph."
            )
        stream.seek(0)
        if receipt.bytes <= MAX_GRAPH_BYTES:
            return _checked(file, spec, stream.read(MAX_GRAPH_BYTES + 1))
        try:  # the weights are inside: they are skipped, so they need not be read
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _checked(file, spec, mapped)
        except (OSError, ValueError) as error:
            raise BundleError(f"{file}: cannot be read ({error}).") from error


def _checked(file: Path, spec: GraphSpec, data: Buffer) -> Report:
    try:
        return _scan(file, spec, Message(data))
    except Fault as fault:
        raise BundleError(f"{file}: {fault}; {_GET}.") from fault


def _scan(file: Path, spec: GraphSpec, message: Message) -> Report:
    version, graph, opsets = _model(message)
    _check_versions(file, version, opsets)
    if graph is None:
        raise Fault("there is no graph in it")
    found = read_graph(message, *graph)
    inline = sum(t.data[1] - t.data[0] for t in found.initializers if t.data is not None)
    if len(message.data) - inline > MAX_GRAPH_BYTES:
        raise Fault(f"more than {MAX_GRAPH_BYTES} bytes of it are no weights")
    beside = _check_files(file, spec, found.initializers)
    if spec.inputs:
        check_values("input", spec.inputs, found.inputs)
        check_values("output", spec.outputs, found.outputs)
        _check_precision(found.initializers, spec.precision)
    return Report(
        nodes=sum(found.operators.values()),
        initializers=len(found.initializers),
        operators={name.decode(): count for name, count in found.operators.items()},
        opsets={shown(name)[1:-1]: number for name, number in opsets.items()},
        ir_version=version,
        external_files=beside,
        inline_bytes=inline,
    )


def _model(message: Message) -> tuple[int, Span | None, dict[bytes, int]]:
    version, graph = 0, None
    opsets: dict[bytes, int] = {}
    for key, a, b in message.fields(0, len(message.data)):
        if key == _IR:
            version = signed(a)
        elif key == _GRAPH:
            if graph is not None:  # readers would join them
                raise Fault("there are two graphs in it")
            graph = (a, b)
        elif key == _OPSET:
            domain, number = _opset(message, a, b)
            if domain in opsets or len(opsets) >= MAX_IMPORTS:
                raise Fault(f"the operators of {shown(domain)} are imported twice, or too many are")
            opsets[domain] = number
        elif key == _METADATA:
            for inner, start, end in message.fields(a, b):
                # ONNX Runtime may be told to take options of the session from there.
                if inner == tag(1, LENGTH) and message.data[start:end] == b"ort_config":
                    raise Fault("it carries options for ONNX Runtime")
        elif key in _REFUSED:
            raise Fault(f"it holds {_REFUSED[key]}, which edgediff does not read")
        elif key not in _IGNORED:
            raise Fault(f"it is no ONNX model (field {key >> 3})")
    return version, graph, opsets


def _opset(message: Message, start: int, end: int) -> tuple[bytes, int]:
    domain, number = b"", 0
    for key, a, b in message.fields(start, end):
        if key == tag(1, LENGTH):
            domain = message.data[a:b]
        elif key == tag(2, VARINT):
            number = signed(a)
        else:
            raise Fault(f"an import of operators has the unknown field {key >> 3}")
    return (b"" if domain == b"ai.onnx" else domain), number


def _check_versions(file: Path, version: int, opsets: Mapping[bytes, int]) -> None:
    if version not in IR_VERSIONS:
        raise UnsupportedError(
            f"{file}: it is of ONNX's IR version {version}; {IR_VERSIONS[0]} to {IR_VERSIONS[-1]} are read. "
            "Export the model again, or upgrade edgediff."
        )
    if b"" not in opsets:
        raise Fault("it names no version of ONNX's operators")
    if opsets[b""] not in OPSETS:
        raise UnsupportedError(
            f"{file}: its operators are of opset {opsets[b'']}; {OPSETS[0]} to {OPSETS[-1]} are read. "
            "Export the model again, or upgrade edgediff."
        )
    if opsets.get(b"com.microsoft", 1) != 1:
        raise UnsupportedError(
            f"{file}: its com.microsoft operators are of version {opsets[b'com.microsoft']}; 1 is read. "
            "Export the model again, or upgrade edgediff."
        )


def _check_files(file: Path, spec: GraphSpec, initializers: list[Tensor]) -> tuple[Path, ...]:
    regions = [t.region for t in initializers if t.region is not None]
    names = sorted({region.file for region in regions})
    if len(names) > tensors.MAX_FILES:
        raise Fault(f"its weights lie in {len(names)} files, and at most {tensors.MAX_FILES} are allowed")
    folder = spec.file.rpartition("/")[0]
    sizes = {}
    for name in names:
        listed = f"{folder}/{name}" if folder else name
        if spec.inputs and listed not in spec.weights:
            raise Fault(f"it reads {name}, which the manifest does not list among its weights")
        if not spec.inputs:
            links.refuse_link(file.parent / name, listed)
        stream, receipt = links.open_regular(file.parent / name)
        stream.close()
        sizes[name] = receipt.bytes
    tensors.check_regions(regions, sizes)
    return tuple(file.parent / name for name in names)


_HALVES = {tensors.FLOAT16, 16}
_QUANTISED = {2, 3, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26}


def _check_precision(initializers: list[Tensor], precision: str) -> None:
    """Compare a label whose meaning is plain with the types of the matrices."""
    kinds = Counter(t.kind for t in initializers if len(t.dims) > 1 and t.elements > 1)
    reduced = (_HALVES | _QUANTISED) & kinds.keys()
    if precision == "fp32" and reduced:
        raise Fault("the manifest says fp32, and there are weights of less precision in the graph")
    if precision == "fp16" and tensors.FLOAT32 in kinds and not reduced:
        raise Fault("the manifest says fp16, and all weights of the graph are float32")
