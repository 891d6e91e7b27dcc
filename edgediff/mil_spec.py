"""Reads the model file of a Core ML package: its public side, and the program, without coremltools.

The format is Model.proto of https://github.com/apple/coremltools (mlmodel/format); a model of another kind
than a program is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgediff import links
from edgediff.errors import BundleError, UnsupportedError
from edgediff.mil_blocks import Reader
from edgediff.mil_features import read_description
from edgediff.mil_program import Blob, Block, Constant, Feature, Function, Named, Operation, Spec, TypeOf
from edgediff.mil_types import entry, once
from edgediff.onnx_tensors import shown
from edgediff.protobuf import LENGTH, VARINT, Fault, Message, Span, small, tag

__all__ = [
    "Blob",
    "Block",
    "Constant",
    "Feature",
    "Function",
    "Named",
    "Operation",
    "Spec",
    "TypeOf",
    "parse_spec",
    "read_spec",
]

MAX_BYTES = 128 << 20  # without the weights; the largest U-Net of Stable Diffusion XL has a tenth of that
MAX_FIELDS = 10_000_000
MAX_FUNCTIONS = 64
# 6 is iOS 15, the first with programs; 10 is iOS 26.
VERSIONS = range(6, 11)
_GET = "get the package again, or export the model again"

_VERSION, _DESCRIPTION, _UPDATABLE = tag(1, VARINT), tag(2, LENGTH), tag(10, VARINT)
_PROGRAM = tag(502, LENGTH)
_OTHERS = {
    200: "a pipeline", 201: "a pipeline", 202: "a pipeline", 303: "a neural network of the older kind",
    403: "a neural network of the older kind", 500: "a neural network of the older kind",
    555: "a custom model", 556: "a link to another model", 3000: "a model of a system framework",
}  # fmt: skip
_FUNCTIONS = tag(2, LENGTH)


def read_spec(model: Path) -> Spec:
    """Return what a package's model file, ``.../com.apple.CoreML/model.mlmodel``, says.

    Raises:
        UnsupportedError: it is well-formed, and of a version or kind that edgediff does not read.
        BundleError: it is damaged or hostile.
    """
    stream, receipt = links.open_regular(model)
    with stream:
        if receipt.bytes > MAX_BYTES:
            raise BundleError(
                f"{model}: {receipt.bytes} bytes are more than the {MAX_BYTES} that a program without its "
                "weights may have; export the model again."
            )
        try:
            data = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise BundleError(f"{model}: cannot be read ({error}); {_GET}.") from error
    kind = links.wrong_kind(data[:64])
    if kind is not None:
        raise BundleError(f"{model}: expected a Core ML model; this is {kind}.")
    return parse_spec(data, str(model))


def parse_spec(data: bytes, name: str) -> Spec:
    """Return what the bytes of a model file say; ``name`` stands in errors.

    Raises:
        UnsupportedError: they are of a version or kind that edgediff does not read.
        BundleError: they are damaged or hostile.
    """
    message = Message(data)
    message.left = MAX_FIELDS
    try:
        return _spec(message, name)
    except Fault as fault:
        raise BundleError(f"{name}: {fault}; {_GET}.") from fault


def _spec(message: Message, name: str) -> Spec:
    version = 0
    description: Span | None = None
    program: Span | None = None
    other = None
    for key, a, b in message.fields(0, len(message.data)):
        if key == _VERSION:
            version = small(a)
        elif key == _DESCRIPTION:
            description = once(description, (a, b))
        elif key == _PROGRAM:
            program = once(program, (a, b))
        elif key >> 3 >= 200:
            other = key >> 3
        elif key != _UPDATABLE:
            raise Fault(f"it is no Core ML model (field {key >> 3})")
    if version not in VERSIONS and version > 0 and description is not None:
        raise UnsupportedError(
            f"{name}: it is of version {version} of Core ML's format; {VERSIONS[0]} to {VERSIONS[-1]} are "
            "read. Export the model again, or upgrade edgediff."
        )
    if other is not None and description is not None and program is None:
        raise UnsupportedError(
            f"{name}: it is {_OTHERS.get(other, 'a model of another kind')}, and only programs are read; "
            "export the model as an ML program."
        )
    if other is not None or description is None or program is None or not version:
        raise Fault("it is no Core ML model: the version, the description or the program is missing")
    described = read_description(message, *description)
    functions = _functions(message, *program)
    default = described.default or "main"
    if default not in functions:
        raise Fault("the function that it should run is not there")
    _check_public(functions[default], described.inputs, described.outputs)
    return Spec(version, described.inputs, described.outputs, functions, described.metadata, default)


def _functions(message: Message, start: int, end: int) -> Mapping[str, Function]:
    reader = Reader(message)
    found: dict[str, Function] = {}
    for key, a, b in message.fields(start, end):
        if key == _FUNCTIONS:
            name, span = entry(message, a, b)
            if name in found or len(found) >= MAX_FUNCTIONS:
                raise Fault("a function is there twice, or too many are")
            found[name] = reader.function(*span)
        elif key not in (tag(1, VARINT), tag(3, LENGTH), tag(4, LENGTH)):  # version, text, what built it
            raise Fault(f"the program has the unknown field {key >> 3}")
    return found


def _check_public(function: Function, inputs: tuple[Feature, ...], outputs: tuple[Feature, ...]) -> None:
    """Compare what applications are told with what the program takes and makes."""
    if {feature.name for feature in inputs} != {named.name for named in function.inputs}:
        raise Fault("its description and its program name different inputs")
    taken = {named.name: named.type for named in function.inputs}
    for feature in inputs:
        if not _agree(feature, taken[feature.name]):
            raise Fault(
                f"its description and its program say different things of {shown(feature.name.encode())}"
            )
    if {feature.name for feature in outputs} != set(function.block.outputs):
        raise Fault("its description and its program name different outputs")


def _agree(feature: Feature, taken: TypeOf) -> bool:
    if feature.dtype == "image":  # the program takes its channels as floats, in an order that is not said
        return True
    sizes = zip(feature.shape, taken.shape, strict=False)
    return (
        feature.dtype == taken.dtype
        and len(feature.shape) == len(taken.shape)
        and all(size is None or size == stated for stated, size in sizes)
    )
