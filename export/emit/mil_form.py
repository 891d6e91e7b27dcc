"""How a recorded graph is said in MIL, Core ML's language of programs, and its public side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgediff.export.emit.graph import Graph, Kind, Port
from edgediff.export.emit.onnx import Tensor
from edgediff.export.emit.sizes import Extents

Attention = Literal["original", "split_einsum", "split_einsum_v2"]
"""``original``: all heads in one product, for GPU and CPU. ``split_einsum``: a product per head over tensors
(B, C, 1, S), for the Neural Engine; its second version also cuts the queries into chunks of 512."""
Target = Literal["iOS17", "iOS18"]
"""The oldest system that loads the program; iOS17 is also macOS 14, iOS18 macOS 15."""


@dataclass(frozen=True, slots=True)
class MilForm:
    """A form of a program. ``half``: it computes in float16 and its weights are stored so."""

    attention: Attention = "original"
    half: bool = True
    target: Target = "iOS17"


@dataclass(frozen=True, slots=True)
class Signature:
    """The public side of a program.

    ``extents``: those of each input of the graph, by port name, one mapping per resolution; the first is the
    default. ``names``: public names by port name, for those that have others. ``outputs``: the outputs that
    are kept, by port name, in order; None keeps all. ``channels_first``: ports of tokens that are
    (B, C, 1, S) outside too, not (B, S, C). ``time_rows``: an input of one number has one for each row of
    the batch, all equal. ``float_ids``: ids are given as float32. ``baked``: inputs that become constants, by
    port name, in the shape that the port would have (ids and times as numbers).
    """

    extents: tuple[Mapping[str, Extents], ...]
    batch: int = 1
    names: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] | None = None
    channels_first: frozenset[str] = frozenset()
    time_rows: bool = False
    float_ids: bool = False
    baked: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def name(self, port: Port) -> str:
        """The public name of a port, as a manifest lists it. In a package every character but letters, digits
        and underscores is an underscore (``edgediff.mil_ports``)."""
        return self.names.get(port.name, port.name)

    def inputs_of(self, graph: Graph) -> tuple[Port, ...]:
        """The ports that stay inputs."""
        return tuple(port for port in graph.inputs if port.name not in self.baked)

    def outputs_of(self, graph: Graph) -> tuple[Port, ...]:
        """The ports that stay outputs, in their public order."""
        if self.outputs is None:
            return graph.outputs
        named = {port.name: port for port in graph.outputs}
        return tuple(named[name] for name in self.outputs)

    def shape(self, port: Port, extents: Extents) -> tuple[int, ...]:
        """The public shape of a port whose free extents are these."""
        channels, batch = port.value.channels, self.batch
        match port.value.kind:
            case Kind.IMAGE:
                return (batch, channels, *extents)
            case Kind.TOKENS if port.name in self.channels_first:
                return (batch, channels, 1, *extents)
            case Kind.TOKENS:
                return (batch, *extents, channels)
            case Kind.VECTOR:
                return (batch, channels)
            case Kind.TIME:
                return (batch,) if self.time_rows else (1,)
        return (batch, *extents)

    def tensor(self, port: Port, extents: Extents) -> Tensor:
        """A port as a manifest lists it."""
        ids = port.value.kind in (Kind.IDS, Kind.LABEL) and not self.float_ids
        return Tensor(self.name(port), "int32" if ids else "float32", self.shape(port, extents))

    def feeds(self, graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What the program is given, from what the graph's ONNX form is given: tokens (B, S, C), times (1,)
        or (). The batch is that of the signature, or rows are repeated to fill it."""
        found = {}
        for port in self.inputs_of(graph):
            given = np.asarray(inputs[port.name])
            if port.value.kind is Kind.TIME:
                given = np.full(self.shape(port, ()), given.reshape(-1)[0])
            elif len(given) != self.batch:
                given = np.concatenate([given] * -(-self.batch // len(given)))[: self.batch]
            if port.value.kind is Kind.TOKENS and port.name in self.channels_first:
                given = given.transpose(0, 2, 1)[:, :, None]
            ids = port.value.kind in (Kind.IDS, Kind.LABEL) and not self.float_ids
            found[self.name(port)] = np.ascontiguousarray(given.astype(np.int32 if ids else np.float32))
        return found

    def results(self, graph: Graph, outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What the graph's ONNX form would give, by port name, from what the program gave."""
        found = {}
        for port in self.outputs_of(graph):
            value = outputs[self.name(port)]
            if port.value.kind is Kind.TOKENS and port.name in self.channels_first:
                value = value[:, :, 0].transpose(0, 2, 1)
            found[port.name] = value
        return found


def tensors_of(graph: Graph, signature: Signature, known: Mapping[int, Extents]) -> tuple[list[Tensor], ...]:
    """Inputs and outputs as a manifest lists them; ``known`` are the extents of all values, by id."""
    return tuple(
        [signature.tensor(port, known[port.value.id]) for port in ports]
        for ports in (signature.inputs_of(graph), signature.outputs_of(graph))
    )
