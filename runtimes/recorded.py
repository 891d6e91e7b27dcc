"""Record what graphs answer and play it back: pictures of a real model in tests, without its weights.

A recording is ``<graph file>.recorded.npz``: per call the inputs' and outputs' arrays, in order.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgediff.bundle import GraphSpec
from edgediff.errors import BundleError, CheckFailed
from edgediff.runtime import Graph, GraphInfo, Tensor

SUFFIX = ".recorded.npz"


def runtime() -> RecordedRuntime:
    """Return this runtime."""
    return RecordedRuntime()


class Recorder:
    """A graph that remembers its calls; :meth:`save` writes them for :class:`RecordedRuntime`."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._calls: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    @property
    def info(self) -> GraphInfo:
        return self._graph.info

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = self._graph(inputs)
        self._calls.append(
            ({k: v.copy() for k, v in inputs.items()}, {k: v.copy() for k, v in outputs.items()})
        )
        return outputs

    def cancel(self) -> None:
        self._graph.cancel()

    def close(self) -> None:
        self._graph.close()

    def save(self, file: Path) -> None:
        """Write the calls beside the graph ``file``."""
        arrays: dict[str, Any] = {"calls": np.asarray(len(self._calls))}
        names = [{"in": list(i), "out": list(o)} for i, o in self._calls]
        for n, (inputs, outputs) in enumerate(self._calls):
            arrays |= {f"{n}.in.{k}": v for k, v in inputs.items()}
            arrays |= {f"{n}.out.{k}": v for k, v in outputs.items()}
        arrays["names"] = np.asarray(json.dumps(names))
        with file.with_name(file.name + SUFFIX).open("wb") as stream:
            np.savez_compressed(stream, **arrays)


class RecordedRuntime:
    """Plays recordings back. Option ``tolerance``: largest difference of an input from the recorded one
    (1e-4)."""

    reads = None  # whatever a graph is of

    def devices(self) -> Sequence[str]:
        return ("cpu",)

    def load(
        self,
        spec: GraphSpec,
        file: Path,
        device: str,
        options: Mapping[str, Any],
        constants: Mapping[str, Tensor],
    ) -> RecordedGraph:
        """Load the recording of ``file``."""
        del constants
        recording = file.with_name(file.name + SUFFIX)
        try:
            with np.load(recording, allow_pickle=False) as stored:
                arrays = dict(stored)
            names = json.loads(str(arrays["names"]))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(f"{recording}: no recording can be read there ({error}).") from error
        tolerance = options.get("tolerance")
        return RecordedGraph(spec, device, names, arrays, 1e-4 if tolerance is None else float(tolerance))


class RecordedGraph:
    """Answers the n-th call with the n-th recorded answer, if the question is the recorded one."""

    def __init__(
        self, spec: GraphSpec, device: str, names: Any, arrays: dict[str, Tensor], tolerance: float
    ) -> None:
        self._info = GraphInfo("recorded", device, "recorded", spec.precision, spec.inputs, spec.outputs)
        self._names = names
        self._arrays = arrays
        self._tolerance = tolerance
        self._next = 0

    @property
    def info(self) -> GraphInfo:
        return self._info

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the recorded outputs. Raises CheckFailed where the inputs differ from the recorded ones."""
        n = self._next
        if n >= len(self._names):
            raise CheckFailed(
                f"{self._info.outputs[0].name}: {len(self._names)} calls were recorded, this is one more."
            )
        for name in self._names[n]["in"]:
            then, now = self._arrays[f"{n}.in.{name}"], inputs.get(name)
            if (
                now is None
                or now.shape != then.shape
                or not np.allclose(now, then, rtol=0, atol=self._tolerance)
            ):
                raise CheckFailed(f"call {n}: the input {name} differs from the recorded one.")
        self._next += 1
        return {name: self._arrays[f"{n}.out.{name}"].copy() for name in self._names[n]["out"]}

    def cancel(self) -> None:
        """Nothing runs long enough."""

    def close(self) -> None:
        """Drop the recording."""
        self._arrays = {}
