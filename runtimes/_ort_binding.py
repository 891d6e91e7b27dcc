"""Inputs that stay the same for many runs, kept where the graph computes.

On a device with memory of its own each run would copy the text's embeddings, or a network's keys and values,
there again; ONNX Runtime's IO binding lets them be copied once. They are told by what they are: a read-only
array (:func:`edgediff.runtime.constant`) that was given for the same input before. What was tested is the
binding on ONNX Runtime's CPU device, by the same calls; that CUDA takes it is ONNX Runtime's documentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgediff.runtime import Tensor

APART = frozenset(("cuda",))
"""Devices with memory of their own that ONNX Runtime's names for places know."""


class Binding:
    """The constant inputs of one session, on the device ``place`` (``cpu``, ``cuda``)."""

    def __init__(
        self, ort: Any, session: Any, place: str, outputs: Sequence[str], constants: Mapping[str, Tensor]
    ) -> None:
        self._ort = ort
        self._session = session
        self._place = place
        self._outputs = tuple(outputs)
        self._constants = {name: self._copied(array) for name, array in constants.items()}
        self._held: dict[str, tuple[Tensor, Any]] = {}  # read-only inputs of the run before, and their copies

    def _copied(self, array: Tensor) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._place, 0)

    def run(self, inputs: Mapping[str, Tensor], options: Any) -> list[Tensor]:
        """Run with the constants and ``inputs``, which win where both have a name; outputs come back."""
        bound = self._session.io_binding()
        for name, value in self._constants.items():
            if name not in inputs:
                bound.bind_ortvalue_input(name, value)
        for name, array in inputs.items():
            if array.flags.writeable or array.base is not None:  # others may write into what it is a view of
                bound.bind_cpu_input(name, np.ascontiguousarray(array))
                continue
            if name not in self._held or self._held[name][0] is not array:
                self._held[name] = (array, self._copied(array))
            bound.bind_ortvalue_input(name, self._held[name][1])
        for name in self._outputs:
            bound.bind_output(name, "cpu")
        self._session.run_with_iobinding(bound, options)
        found: list[Tensor] = bound.copy_outputs_to_cpu()
        return found
