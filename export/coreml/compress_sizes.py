"""How many bytes each weight of a saved package takes."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

from edgediff.mil_program import BITS, Blob
from edgediff.mil_spec import read_spec
from edgediff.mlpackage import open_package

_ENDINGS = ("_palettized", "_quantized")  # what coremltools adds to the name of a weight that it stores so


def sizes(package: Path) -> dict[str, int]:
    """The bytes of every array in the weights file of a ``.mlpackage``, by the name of its constant; a
    compressed one is all that belongs to it. The headers and alignment of the file are not counted.

    Raises:
        BundleError: the package is damaged.
    """
    found: Counter[str] = Counter()
    for operation in read_spec(open_package(package).model).main.block.walk():
        for _, constant in operation.constants():
            if isinstance(constant.value, Blob):
                count = prod(size or 0 for size in constant.type.shape)
                found[_weight(operation.outputs[0].name)] += (count * BITS[constant.type.dtype] + 7) // 8
    return dict(found)


def _weight(name: str) -> str:
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name
