"""Times one-layer graphs on this machine, all forms of a layer in turns."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from edgediff import runtime
from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.export.emit.graph import Kind
from edgediff.export.emit.integers import Choice
from edgediff.export.emit.onnx import emit
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.emit.ops import Ops
from edgediff.export.quantize.alone import Shape, cut, filled, record, said, work

Form = tuple[Choice, bool]
"""A choice, and whether a convolution's weights are symmetric."""
_MOST = 6_000_000_000  # operations of one run; what is larger is cut
_ROUNDS, _FEWEST, _PATIENCE = 15, 3, 0.4  # runs of each form, and the seconds after which fewer will do
_COPIES, _ENOUGH = 16, 200_000_000  # small layers are timed side by side, since calling takes as long as they
_LEAST = 1e-7


class Stopwatch:
    """Loads graphs from a scratch folder and times them, on as many ``threads`` as inference would use."""

    def __init__(self, threads: int | None = None) -> None:
        self._options: dict[str, Any] = {"scan": False, "threads": threads}
        self._backend = runtime.find("onnxruntime")
        self._call = self._calling()

    def seconds(self, shape: Shape, forms: Sequence[Form]) -> dict[Form, float]:
        """The median seconds of one pass by form, less what calling any graph takes."""
        less, factor = cut(shape, _MOST)
        copies = max(1, min(_COPIES, _ENOUGH // work(less)))
        graph, given = record(less, copies)
        taken = self._race([filled(said(graph, *form)) for form in forms], given)
        pairs = zip(forms, taken, strict=True)
        return {form: factor * max((each - self._call) / copies, _LEAST) for form, each in pairs}

    def _calling(self) -> float:
        """The seconds of a graph that does next to nothing."""
        ops = Ops("nothing")
        ops.output("y", ops.affine(ops.input("x", Kind.VECTOR, 1), 2.0))
        return self._race([emit(ops.graph(), profile=ORT_CPU).model], {"x": (1, 1)})[0]

    def _race(self, models: Sequence[onnx.ModelProto], given: Mapping[str, tuple[int, ...]]) -> list[float]:
        rng = np.random.default_rng(0)
        inputs = {name: rng.standard_normal(shape, np.float32) for name, shape in given.items()}
        graphs: list[runtime.Graph] = []
        taken: list[list[float]] = [[] for _ in models]
        try:
            graphs += map(self._loaded, models)
            for graph in graphs:
                graph(inputs)  # the first pass allocates
            began = time.perf_counter()
            for i in range(_ROUNDS):
                if i >= _FEWEST and time.perf_counter() - began > _PATIENCE * len(models):
                    break
                for graph, times in zip(graphs, taken, strict=True):
                    at = time.perf_counter()
                    graph(inputs)
                    times.append(time.perf_counter() - at)
        finally:
            for graph in graphs:
                graph.close()
        return [statistics.median(times) for times in taken]

    def _loaded(self, model: onnx.ModelProto) -> runtime.Graph:
        inputs, outputs = (tuple(map(_tensor, ports)) for ports in (model.graph.input, model.graph.output))
        with tempfile.TemporaryDirectory(prefix="edgediff-tune-") as scratch:
            path = Path(scratch) / "layer.onnx"
            path.write_bytes(model.SerializeToString())
            spec = GraphSpec("onnxruntime", ORT_CPU.name, path.name, "any", inputs, outputs)
            return self._backend.load(spec, path, "cpu", self._options, {})


def _tensor(port: onnx.ValueInfoProto) -> TensorSpec:
    kind = port.type.tensor_type
    dims = tuple(each.dim_value if each.HasField("dim_value") else each.dim_param for each in kind.shape.dim)
    return TensorSpec(port.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, dims)
