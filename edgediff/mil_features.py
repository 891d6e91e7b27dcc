"""The public side of a Core ML model: inputs, outputs and metadata, as its description states them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from edgediff.mil_program import Feature
from edgediff.mil_types import MAX_ELEMENTS, MAX_RANK, entry, once, text, unknown
from edgediff.protobuf import FIXED32, FIXED64, LENGTH, VARINT, Fault, Message, signed, small, tag

MAX_FEATURES = 256
MAX_SHAPES = 1024
MAX_TEXT = 1 << 20  # of one entry of the metadata

_DTYPES = {65568: "float32", 65600: "float64", 65552: "float16", 131104: "int32", 131080: "int8"}
_KINDS = {1: "int64", 2: "float64", 3: "string", 6: "dictionary", 7: "sequence"}
_ONE, _TWO, _THREE = (tag(n, LENGTH) for n in (1, 2, 3))
_NUMBER, _SECOND_NUMBER, _THIRD_NUMBER = (tag(n, VARINT) for n in (1, 2, 3))
_INPUT, _OUTPUT, _FUNCTION = tag(1, LENGTH), tag(10, LENGTH), tag(20, LENGTH)
_STATE, _DEFAULT, _METADATA = tag(13, LENGTH), tag(21, LENGTH), tag(100, LENGTH)
_NAMES = {1: "shortDescription", 2: "versionString", 3: "author", 4: "license"}


class Description(NamedTuple):
    """A ModelDescription. ``default`` names the function that it describes, if it names any."""

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    metadata: Mapping[str, str]
    default: str


def read_description(message: Message, start: int, end: int) -> Description:
    """Return the ModelDescription in a span.

    Where a model has several functions, the features are those of its default function.

    Raises:
        Fault: it is damaged, or has states, which edgediff does not read.
    """
    features: dict[int, list[Feature]] = {_INPUT: [], _OUTPUT: []}
    functions: dict[str, dict[int, list[Feature]]] = {}
    metadata: Mapping[str, str] = {}
    default = ""
    described = None
    for key, a, b in message.fields(start, end):
        if key in features:
            _add(features[key], _feature(message, a, b))
        elif key == _FUNCTION:
            name, found = _function(message, a, b)
            if name in functions or len(functions) >= MAX_FEATURES:
                raise Fault("a function is described twice, or too many are")
            functions[name] = found
        elif key == _DEFAULT:
            default = text(message, a, b)
        elif key == _METADATA:
            described = once(described, (a, b))
            metadata = _metadata(message, a, b)
        elif key == _STATE:
            raise Fault("it has a state, which edgediff does not read")
        else:
            raise unknown("its description", key)
    if functions:
        if default not in functions:
            raise Fault("its default function is not described")
        features = functions[default]
    return Description(tuple(features[_INPUT]), tuple(features[_OUTPUT]), metadata, default)


def _function(message: Message, start: int, end: int) -> tuple[str, dict[int, list[Feature]]]:
    name = ""
    features: dict[int, list[Feature]] = {_INPUT: [], _OUTPUT: []}
    for key, a, b in message.fields(start, end):
        if key == _ONE:
            name = text(message, a, b)
        elif key == _TWO:
            _add(features[_INPUT], _feature(message, a, b))
        elif key == _THREE:
            _add(features[_OUTPUT], _feature(message, a, b))
        else:
            raise unknown("a function's description", key)
    return name, features


def _add(features: list[Feature], feature: Feature) -> None:
    if len(features) >= MAX_FEATURES or any(feature.name == known.name for known in features):
        raise Fault("an input or output is described twice, or too many are")
    features.append(feature)


def _metadata(message: Message, start: int, end: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, a, b in message.fields(start, end):
        if key == tag(100, LENGTH):
            name, (a, b) = entry(message, a, b)
        elif key >> 3 in _NAMES and key & 7 == LENGTH:
            name = _NAMES[key >> 3]
        else:
            raise unknown("its metadata", key)
        if b - a > MAX_TEXT or len(found) >= MAX_FEATURES or name in found:
            raise Fault("its metadata are too long, or name something twice")
        found[name] = text(message, a, b)
    return found


def _feature(message: Message, start: int, end: int) -> Feature:
    name, kind = "", None
    for key, a, b in message.fields(start, end):
        if key == _ONE:
            name = text(message, a, b)
        elif key == _THREE:
            kind = once(kind, (a, b))
        elif key != _TWO:  # a text
            raise unknown("an input or output", key)
    if not name or kind is None:
        raise Fault("an input or output has no name or no type")
    found, optional = None, False
    for key, a, b in message.fields(*kind):
        if key == tag(1000, VARINT):
            optional = bool(a)
            continue
        if found is not None or key & 7 != LENGTH:
            raise Fault("an input or output is two things at once")
        if key == tag(5, LENGTH):
            found = _array(message, name, a, b)
        elif key == tag(4, LENGTH):
            found = _image(message, name, a, b)
        elif key >> 3 in _KINDS:
            found = Feature(name, _KINDS[key >> 3], ())
        else:
            raise unknown("an input or output", key)
    if found is None:
        raise Fault("an input or output has no type")
    return Feature(found.name, found.dtype, found.shape, found.shapes, optional, found.ranges)


def _array(message: Message, name: str, start: int, end: int) -> Feature:
    shape: list[int] = []
    shapes: list[tuple[int, ...]] = []
    ranges: list[tuple[int, int]] = []
    dtype = 0
    for key, a, b in message.fields(start, end):
        if key in (_ONE, _NUMBER):
            shape += _sizes(message, key, a, b)
        elif key == _SECOND_NUMBER:
            dtype = small(a)
        elif key == tag(21, LENGTH):
            for inner, c, d in message.fields(a, b):
                if inner != _ONE or len(shapes) >= MAX_SHAPES:
                    raise Fault("the shapes of an input cannot be read, or are too many")
                sizes: list[int] = []
                for key_of_size, e, f in message.fields(c, d):
                    sizes += _sizes(message, key_of_size, e, f)
                shapes.append(tuple(sizes))
        elif key == tag(31, LENGTH):
            for inner, c, d in message.fields(a, b):
                if inner != _ONE or len(ranges) >= MAX_RANK:
                    raise Fault("the sizes of an input cannot be read")
                ranges.append(_range(message, c, d))
        elif key not in (tag(41, VARINT), tag(51, FIXED32), tag(61, FIXED64)):  # values if not given
            raise unknown("an input or output", key)
    if dtype not in _DTYPES:
        raise Fault(f"an input or output is of type {dtype}, which edgediff does not feed")
    if len(shape) > MAX_RANK or any(len(known) > MAX_RANK for known in shapes):
        raise Fault("an input or output has too many axes")
    return Feature(name, _DTYPES[dtype], tuple(shape), tuple(shapes), ranges=tuple(ranges))


def _sizes(message: Message, key: int, a: int, b: int) -> list[int]:
    if key not in (_ONE, _NUMBER):
        raise unknown("a shape", key)
    if key == _ONE and b - a > 10 * MAX_RANK:
        raise Fault("an input or output has too many axes")
    found = [signed(size) for size in (message.numbers(a, b) if key == _ONE else [a])]
    if any(not 0 <= size <= MAX_ELEMENTS for size in found):
        raise Fault("an input or output has an impossible size")
    return found


def _range(message: Message, start: int, end: int) -> tuple[int, int]:
    low = high = 0
    for key, a, _ in message.fields(start, end):
        if key == _NUMBER:
            low = a
        elif key == _SECOND_NUMBER:
            high = signed(a)
        else:
            raise unknown("a range of sizes", key)
    return low, high


def _image(message: Message, name: str, start: int, end: int) -> Feature:
    width = height = 0
    for key, a, _ in message.fields(start, end):
        if key == _NUMBER:
            width = signed(a)
        elif key == _SECOND_NUMBER:
            height = signed(a)
        elif key not in (_THIRD_NUMBER, tag(21, LENGTH), tag(31, LENGTH)):
            raise unknown("a picture", key)
    return Feature(name, "image", (height, width))
