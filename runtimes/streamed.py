"""Runs an ONNX file a stretch of nodes at a time, so that memory holds a part of its weights, never all.

Weights that a process reads from a mapped file count as its memory, so a whole pass of a full-size network
takes as much as its file. This takes ``budget`` bytes of weights and what is alive between stretches, and is
slower: each stretch is loaded anew in each call. The exporter checks graphs with it; needs the onnx package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import BundleError, CancelledError, InputError, UnsupportedError
from edgediff.onnx_scan import scan
from edgediff.runtime import GraphInfo, Tensor
from edgediff.runtimes import _ort_providers as providers
from edgediff.threads import available_threads

BUDGET = 192 << 20
# A stretch of few weights still keeps its intermediate values; one that is observed keeps all of them.
_NODES, _NODES_OBSERVED = 400, 16
Observer = Callable[[str, Tensor], None]


def runtime() -> StreamedRuntime:
    """Return this runtime."""
    return StreamedRuntime()


class StreamedRuntime:
    """Options: ``budget`` (bytes of weights at a time), ``threads``, and ``observe``, a function that is
    called with name and value of all that nodes make of the inputs, in order."""

    reads = "onnxruntime"

    def devices(self) -> Sequence[str]:
        return ("cpu",)

    def load(
        self,
        spec: GraphSpec,
        file: Path,
        device: str,
        options: Mapping[str, Any],
        constants: Mapping[str, Tensor],
    ) -> StreamedGraph:
        """Scan the file, load it once without optimisation to see that it can be, and keep its nodes."""
        if device not in ("auto", "cpu"):
            raise InputError(f"device {device!r}: the streamed runtime runs on the cpu alone.")
        try:
            import onnx
        except ImportError as error:
            raise UnsupportedError(
                "the streamed runtime needs the onnx package: pip install 'edgediff[export]'"
            ) from error
        ort = providers.import_onnxruntime()
        scan(file, spec)
        model = onnx.load(str(file), load_external_data=False)
        graph = StreamedGraph(ort, model, spec, file, options, dict(constants))
        graph.open(str(file))
        return graph


class StreamedGraph:
    """The nodes of a graph, in order. Between calls nothing of its weights is held."""

    def __init__(
        self,
        ort: Any,
        model: Any,
        spec: GraphSpec,
        file: Path,
        options: Mapping[str, Any],
        constants: dict[str, Tensor],
    ) -> None:
        self._ort = ort
        self._model = model
        self._file = file
        self._threads = options.get("threads") or available_threads()
        self._observe: Observer | None = options.get("observe")
        self._constants = constants
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        most = _NODES if self._observe is None else _NODES_OBSERVED
        self._fixed = _fixed(model.graph.node, self._stored)
        self._stretches = list(
            _stretches(model.graph.node, self._stored, self._fixed, options.get("budget") or BUDGET, most)
        )
        made = {name for nodes in self._stretches for node in nodes for name in node.output}
        if missing := [port.name for port in model.graph.output if port.name not in made]:
            raise UnsupportedError(
                f"{file}: {missing[0]} depends on no input; this runtime runs no such graph."
            )
        self._later = _read_later(self._stretches, [port.name for port in model.graph.output])
        self._cancelled = False
        inputs, outputs = (tuple(map(_tensor, ports)) for ports in (model.graph.input, model.graph.output))
        self._info = GraphInfo("streamed", "cpu", "CPUExecutionProvider", spec.precision, inputs, outputs)

    @property
    def info(self) -> GraphInfo:
        return self._info

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once, stretch by stretch."""
        self._cancelled = False
        alive: dict[str, Tensor] = {**self._constants, **inputs}
        for nodes, later in zip(self._stretches, self._later, strict=True):
            if self._cancelled:
                raise CancelledError("cancelled: the caller stopped the work; nothing was written.")
            made = [name for node in nodes for name in node.output if name and name not in self._fixed]
            wanted = made if self._observe is not None else [name for name in made if name in later]
            alive |= self._pass(nodes, alive, wanted)
            if self._observe is not None:
                for name in made:
                    self._observe(name, alive[name])
            alive = {name: value for name, value in alive.items() if name in later}
        return {port.name: alive[port.name] for port in self._info.outputs}

    def cancel(self) -> None:
        """Stop after the stretch that runs."""
        self._cancelled = True

    def close(self) -> None:
        """Hold on to nothing; there is nothing to free."""

    def open(self, model: bytes | str) -> Any:
        """Open a session that takes a graph as it stands, from its bytes or its file.

        Raises:
            BundleError: ONNX Runtime refuses it.
        """
        options = self._ort.SessionOptions()
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.log_severity_level = 4
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.disable_prepacking", "1")
        if isinstance(model, bytes):
            folder = str(self._file.parent)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            return self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors share no base but this
            raise BundleError(f"{self._file}: ONNX Runtime refuses it ({_line(error)}).") from error

    def _pass(
        self, nodes: Sequence[Any], alive: Mapping[str, Tensor], wanted: list[str]
    ) -> dict[str, Tensor]:
        if not wanted:
            return {}
        from onnx import ValueInfoProto, helper

        read = {name for node in nodes for name in node.input}
        given = sorted(name for name in read if name in alive)
        graph = helper.make_graph(
            list(nodes),
            "stretch",
            [
                helper.make_tensor_value_info(
                    n, helper.np_dtype_to_tensor_dtype(alive[n].dtype), alive[n].shape
                )
                for n in given
            ],
            [ValueInfoProto(name=name) for name in wanted],
            [self._stored[name] for name in sorted(read) if name in self._stored],
        )
        model = helper.make_model(
            graph, ir_version=self._model.ir_version, opset_imports=list(self._model.opset_import)
        )
        session = self.open(model.SerializeToString())
        try:
            results = session.run(wanted, {name: alive[name] for name in given})
        except Exception as error:  # the runtime's errors share no base but this
            raise BundleError(f"{self._file}: the run failed ({_line(error)}).") from error
        return dict(zip(wanted, results, strict=True))


def _stretches(
    nodes: Sequence[Any], stored: Mapping[str, Any], fixed: Mapping[str, Any], budget: int, most: int
) -> Iterator[list[Any]]:
    """Nodes in order; what depends on weights alone is computed anew wherever it is read.

    So weights that are widened, shifted or unpacked on their way never wait between two stretches, where
    some of their types (4-bit integers) could not be held at all.
    """
    taken: list[Any] = []
    held: dict[str, int] = {}
    for node in nodes:
        if node.output[0] in fixed:
            continue
        needed = _needed(node, fixed)
        new = _read(needed, stored)
        if taken and (sum((held | new).values()) > budget or len(taken) >= most):
            yield taken
            taken, held = [], {}
        present = {id(each) for each in taken}
        taken += [each for each in needed if id(each) not in present]
        held |= new
    if taken:
        yield taken


def _fixed(nodes: Sequence[Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes that depend on no input of the graph, by each of their outputs."""
    found: dict[str, Any] = {}
    for node in nodes:
        if all(name in stored or name in found for name in node.input if name):
            found |= dict.fromkeys(node.output, node)
    return found


def _needed(node: Any, fixed: Mapping[str, Any]) -> list[Any]:
    """A node, after the fixed ones that it reads, directly or not."""
    found: dict[int, Any] = {}
    for name in node.input:
        if name in fixed:
            found |= {id(each): each for each in _needed(fixed[name], fixed)}
    return [*found.values(), node]


def _read(nodes: Sequence[Any], stored: Mapping[str, Any]) -> dict[str, int]:
    return {name: _bytes(stored[name]) for node in nodes for name in node.input if name in stored}


def _read_later(stretches: Sequence[Sequence[Any]], outputs: Sequence[str]) -> list[set[str]]:
    """For each stretch, the values that something after it reads."""
    needed = [set(outputs)]
    for nodes in reversed(stretches[1:]):
        needed.append(needed[-1] | {name for node in nodes for name in node.input if name})
    return needed[::-1]


def _bytes(tensor: Any) -> int:
    size = int(np.prod(tensor.dims, dtype=np.int64))
    return size * (6 if tensor.data_type == 10 else 4)  # a half takes its own size and, widened, twice that


def _tensor(port: Any) -> TensorSpec:
    from onnx import helper

    kind = port.type.tensor_type
    dims = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim
    )
    return TensorSpec(port.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, dims)


def _line(error: Exception) -> str:
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split())[:300])
