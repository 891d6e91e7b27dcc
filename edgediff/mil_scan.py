"""Checks a whole Core ML package before anybody else opens it: Core ML itself may abort on a damaged one."""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.errors import BundleError
from edgediff.mil_blob import Blobs
from edgediff.mil_program import Blob, Spec, TypeOf
from edgediff.mil_spec import read_spec
from edgediff.mlpackage import Package


def scan(package: Package) -> Spec:
    """Return what a package's model says, after looking up every array that it reads from its weights.

    Nothing is computed and no array is read: the time is that of the program's size.

    Raises:
        UnsupportedError: the model is of a version or kind that is not read.
        BundleError: the model or its weights are damaged or hostile.
    """
    spec = read_spec(package.model)
    with Blobs(package.weights) as blobs:
        regions = {blobs.place(blob, kind) for blob, kind in _stored(spec)}
    end = 0
    for offset, size in sorted(regions):
        if offset < end:
            raise BundleError(
                f"{package.weights}: two arrays overlap at byte {offset}; get the package again, or export "
                "the model again."
            )
        end = offset + size
    return spec


def _stored(spec: Spec) -> Iterator[tuple[Blob, TypeOf]]:
    for function in spec.functions.values():
        for operation in function.block.walk():
            for _, constant in operation.constants():
                if isinstance(constant.value, Blob):
                    yield constant.value, constant.type
