"""What is written of a model: its packages, each with the public side that a layout gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from edgediff.export.coreml.options import Wanted
from edgediff.export.emit.chunks import crossing_extents, halves
from edgediff.export.emit.graph import Graph, Kind, Node
from edgediff.export.emit.mil_form import MilForm, Signature
from edgediff.export.emit.onnx import KeepFloat
from edgediff.export.families.parts import Model, Part

XL = "stable-diffusion-xl"
CHUNKED = ("denoiser", "controlled_denoiser")


@dataclass(frozen=True, slots=True)
class Planned:
    """A network to be written: a part of the model, the name of its package, its form and public side."""

    part: Part
    name: str
    form: MilForm
    signature: Signature
    chunk: bool = False

    @property
    def keep_float(self) -> KeepFloat:
        """The nodes that stay float32 in a half precision program."""
        return partial(_kept_float, self.part, self.form)

    def pieces(self) -> Iterator[Piece]:
        """What becomes a package each: the whole network, or its two halves."""
        graph, signature = self.part.graph, self.signature
        if not self.chunk:
            yield Piece(self.name, graph, signature)
            return
        first, second = halves(graph)
        crossing = {port.name for port in first.outputs}
        tokens = {port.name for port in first.outputs if port.value.kind is Kind.TOKENS}
        inner = replace(signature, channels_first=signature.channels_first | tokens)
        given = signature.extents[0]
        yield Piece(f"{self.name}Chunk1", first, _for(first, replace(inner, outputs=None), given))
        later = crossing_extents(first, second, given)
        yield Piece(f"{self.name}Chunk2", second, _for(second, inner, later), frozenset(crossing))


@dataclass(frozen=True, slots=True)
class Piece:
    """One package: ``crossing`` are inputs that the piece before it gives."""

    name: str
    graph: Graph
    signature: Signature
    crossing: frozenset[str] = frozenset()


def form_of(model: Model, part: Part, asked: Wanted) -> MilForm:
    """The form of a part's program.

    An autoencoder of the SDXL family that says it overflows computes in float32, as Apple's converter has it;
    earlier families' do not say so of themselves (the default of their configuration does), and are known to
    hold in half precision.
    """
    wide = part.overflows and model.facts["family"] == XL and not _has_time(part.graph)
    return MilForm(asked.attention, asked.dtype == "fp16" and not wide, asked.target)


def overflowing(model: Model, asked: Wanted) -> Iterator[str]:
    """What the caller should know of networks for which half precision is narrow."""
    for part in model.parts:
        form = form_of(model, part, asked)
        if asked.dtype == "fp16" and not form.half:
            yield f"{part.role} computes in float32, which its numbers need: not on the Neural Engine"
        elif part.overflows and form.half and _has_time(part.graph):
            kept = "stays in half precision" if form.attention != "original" else "computes in float32"
            yield f"{part.role} asks for wide attention (upcast_attention); its attention {kept}"


def _kept_float(part: Part, form: MilForm, node: Node) -> bool:
    """Products of queries and keys that are known to overflow; the split forms scale the queries first and
    keep the Neural Engine, which has no float32."""
    return (
        part.overflows and node.op == "attention" and form.attention == "original" and _has_time(part.graph)
    )


def _has_time(graph: Graph) -> bool:
    return any(port.value.kind is Kind.TIME for port in graph.inputs)


def _for(graph: Graph, signature: Signature, extents: Mapping[str, tuple[int, ...]]) -> Signature:
    """A signature cut to what a piece reads."""
    read = {port.name for port in graph.inputs}
    return replace(
        signature,
        extents=({name: each for name, each in extents.items() if name in read},),
        baked={name: value for name, value in signature.baked.items() if name in read},
    )
