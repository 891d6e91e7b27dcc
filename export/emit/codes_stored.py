"""The bytes of coded parameters: codes, their scales, and biases that are counted in scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from edgediff.errors import SourceError
from edgediff.export.emit.codes import encode, pack, scales_of
from edgediff.export.emit.graph import Parameter
from edgediff.export.emit.integers import COMPUTED, Coding
from edgediff.export.emit.onnx_builder import Stored
from edgediff.export.tensors import Tensors

Array = np.ndarray[Any, Any]

_RUN = 8 << 20  # bytes read at a time
_KEPT = 32 << 20  # bytes of the scales of blocks that are kept; those of channels are few
# A convolution adds its products to the bias in 32 bits: 255 * 127 * 23,040 of them, the most that a known
# network has, are under 2**30.
_MOST = 1 << 30


def runs(tensors: Tensors, name: str) -> Iterator[Array]:
    """A tensor in runs of rows.

    Raises:
        SourceError: it holds NaN or Inf.
    """
    for run in tensors.rows(name, _RUN):
        if not np.isfinite(run).all():
            raise SourceError(
                f"{tensors.entries[name].file}: tensor {name} holds NaN or Inf; the checkpoint is damaged."
            )
        yield run


class Coder:
    """Codes the parameters of one component; ``names`` maps a parameter's name to its tensor's.

    Scales take a pass of their own over a tensor, and are remembered for its codes and its bias.
    """

    def __init__(self, tensors: Tensors, names: Mapping[str, str]) -> None:
        self._tensors = tensors
        self._names = names
        self._scales: dict[tuple[str, Coding], Array] = {}

    def scales(self, parameter: Parameter, coding: Coding) -> Array:
        """The scales of a weight."""
        key = (parameter.name, coding)
        found = self._scales.pop(key, None)
        if found is None:
            found = scales_of(self._rows(parameter), coding)
        self._scales[key] = found
        large = [other for other in self._scales if other[1].block and other != key]
        held = found.nbytes + sum(self._scales[other].nbytes for other in large)
        for other in large:  # the one that was asked for longest ago first
            if held > _KEPT:
                held -= self._scales.pop(other).nbytes
        return found

    def pieces(self, stored: Stored) -> Iterator[bytes | memoryview]:
        """The stored bytes of a coded parameter.

        Raises:
            SourceError: the tensor holds NaN or Inf, or a number that the stored type cannot hold.
            ValueError: the shape or type to be stored is not that of the coding.
        """
        coding = stored.coding or COMPUTED
        if stored.piece == "bias":
            return iter([self._bias(stored, coding)])
        if stored.piece == "scales":
            return iter([self._scales_stored(stored, coding)])
        if stored.bytes != (stored.parameter.size * coding.bits + 7) // 8:
            raise ValueError(f"{stored.initializer}: {coding} of {stored.parameter} as {stored.shape}")
        return self._transposed(stored, coding) if stored.transposed else self._codes(stored, coding)

    def _rows(self, parameter: Parameter) -> Iterator[Array]:
        for run in runs(self._tensors, self._names[parameter.name]):
            yield run.reshape(-1, *parameter.shape[1:])

    def _coded(self, parameter: Parameter, coding: Coding) -> Iterator[Array]:
        scales, at = self.scales(parameter, coding), 0
        for run in self._rows(parameter):
            yield encode(run, scales[at : at + len(run)], coding)
            at += len(run)

    def _codes(self, stored: Stored, coding: Coding) -> Iterator[bytes]:
        left = np.empty(0, np.uint8)  # a code whose byte is not full yet
        for codes in self._coded(stored.parameter, coding):
            if coding.bits == 8:
                yield codes.tobytes()
                continue
            flat = np.concatenate([left, codes.reshape(-1)])
            even = flat.size // 2 * 2
            left = flat[even:]
            yield pack(flat[:even]).tobytes()
        yield pack(left).tobytes()

    def _transposed(self, stored: Stored, coding: Coding) -> Iterator[memoryview]:
        if coding.bits != 8 or coding.block:
            raise ValueError(f"{stored.initializer}: {coding}, transposed")
        rows = stored.parameter.shape[0]
        whole = np.empty((prod(stored.parameter.shape[1:]), rows), np.uint8 if coding.offset else np.int8)
        at = 0
        for codes in self._coded(stored.parameter, coding):
            whole[:, at : at + len(codes)] = codes.reshape(len(codes), -1).T
            at += len(codes)
        yield whole.data.cast("B")

    def _scales_stored(self, stored: Stored, coding: Coding) -> bytes:
        scales = self.scales(stored.parameter, coding)
        if scales.size != prod(stored.shape):
            raise ValueError(f"{stored.initializer}: {scales.shape} scales as {stored.shape}")
        with np.errstate(over="ignore"):
            made = (scales * np.float32(stored.scale)).astype("<f2" if stored.dtype == "float16" else "<f4")
        if not np.isfinite(made).all():
            name = self._names[stored.parameter.name]
            raise SourceError(
                f"{self._tensors.entries[name].file}: the scales of tensor {name} reach "
                f"{float(np.abs(scales).max()):.4g}, which {stored.dtype} cannot hold. Keep it in float."
            )
        return made.tobytes()

    def _bias(self, stored: Stored, coding: Coding) -> bytes:
        if stored.partner is None:
            raise ValueError(f"{stored.initializer}: an integer bias of no weight")
        units = self.scales(stored.partner, coding).astype(np.float64)
        bias = np.concatenate(list(self._rows(stored.parameter))).astype(np.float64)
        counted = np.rint(bias * stored.scale / units)
        if np.abs(counted).max(initial=0.0) > _MOST:
            worst = int(np.abs(counted).argmax())
            name = self._names[stored.parameter.name]
            raise SourceError(
                f"{self._tensors.entries[name].file}: tensor {name} holds {bias[worst]:.4g}, which is "
                f"{abs(counted[worst]):.3g} steps of its layer's products; 32 bits hold {_MOST:.3g} beside "
                "them. Leave this layer's activations in float: quantize int8-weights."
            )
        return counted.astype("<i4").tobytes()
