"""A pass: self-attention made cheaper at chosen levels of a network. What comes out is no longer the same.

Level 1 is the picture as the network receives it, each halving begins the next one. Ways, with a size n:

* ``tiles``: attention within n x n tiles of the grid (HyperTile, Bruder 2023): 1/n^2 of the products. Tokens
  are put in the order of the tiles where a picture becomes tokens, and back where they become one, so that
  tiles are a reshape. Where n does not divide a side, tiles overlap by what is missing.
* ``shifted``: the same, and every second of these layers has the grid of tiles moved by half a tile, around
  the edges of the picture (Liu et al. 2021, "Swin Transformer", without its masks).
* ``pooled``: keys and values of n x n neighbours are averaged, before their projections: 1/n^2 of the
  products and of these two projections. Blocks at the far edges may be smaller.
* ``strided``: keys and values of every n-th row and column alone (Smith et al. 2024, "ToDo: Token
  Downsampling for Efficient Generation of High-Resolution Images").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from edgediff.errors import InputError
from edgediff.export.emit.graph import Attribute, Graph, Kind, Node, Value

Way = Literal["tiles", "shifted", "pooled", "strided"]
WAYS: tuple[Way, ...] = get_args(Way)
_SIZES = (2, 8)
_PIXELS = -64  # far from every level, whatever is halved
_EXPECTED = (
    "expected WAY:SIZE@LEVEL[,LEVEL...], joined by +, as tiles:2@1 or tiles:2@1+pooled:2@2; "
    f"ways are {', '.join(WAYS)}, sizes {_SIZES[0]} to {_SIZES[1]}, level 1 is the finest"
)


@dataclass(frozen=True, slots=True)
class Cut:
    """One way with its size, at some levels."""

    way: Way
    size: int
    levels: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.way}:{self.size}@{','.join(map(str, self.levels))}"


@dataclass(frozen=True, slots=True)
class Reduction:
    """What is done at which levels; a level is named once."""

    cuts: tuple[Cut, ...] = ()

    def __str__(self) -> str:
        return "+".join(map(str, self.cuts))

    def at(self, level: int) -> Cut | None:
        """What is done at a level."""
        return next((cut for cut in self.cuts if level in cut.levels), None)


def parse(text: str) -> Reduction:
    """Read ``tiles:2@1`` or several of these joined by ``+``.

    Raises:
        InputError: it is not written so, or names a level twice.
    """
    cuts = []
    for part in text.split("+"):
        found = re.fullmatch(r"\s*([a-z]+):(\d{1,3})@(\d{1,2}(?:,\d{1,2})*)\s*", part)
        if found is None or found[1] not in WAYS:
            raise InputError(f"attention {text!r}: {part!r} is no reduction; {_EXPECTED}.")
        size, levels = int(found[2]), tuple(int(each) for each in found[3].split(","))
        if not _SIZES[0] <= size <= _SIZES[1] or min(levels) < 1:
            raise InputError(f"attention {text!r}: {part!r} is out of range; {_EXPECTED}.")
        cuts.append(Cut(cast(Way, found[1]), size, tuple(sorted(levels))))
    named = [level for cut in cuts for level in cut.levels]
    twice = sorted({level for level in named if named.count(level) > 1})
    if twice:
        raise InputError(f"attention {text!r}: level {twice[0]} is named twice; a level has one reduction.")
    return Reduction(tuple(cuts))


def levels_of(graph: Graph) -> tuple[int, ...]:
    """The levels at which a network has self-attention over a picture, the finest first."""
    grids = _grids(graph)
    return tuple(sorted({grids.level(node) for node in graph.nodes if grids.is_self(node)}))


def reduced(graph: Graph, reduction: Reduction) -> Graph:
    """The recording with its self-attentions reduced. Values keep their ids; new ones come after them.

    New operations, which every emitter says: ``arrange`` and ``restore`` (tokens, picture): into the order of
    tiles and back; ``windows`` and ``unwindows`` (tokens, picture): each tile a row of the batch and back;
    ``pool_tokens`` and ``stride_tokens`` (tokens, picture). The picture gives its size alone.

    Raises:
        InputError: a level has no self-attention; the message names those that have.
    """
    if not reduction.cuts:
        return graph
    known = levels_of(graph)
    for cut in reduction.cuts:
        missing = [level for level in cut.levels if level not in known]
        if missing:
            has = f"levels {', '.join(map(str, known))} have" if known else "no level has"
            raise InputError(
                f"attention {cut}: the {graph.name} has no self-attention at level {missing[0]}; {has} it."
            )
    return _Pass(graph, reduction).graph()


@dataclass(frozen=True, slots=True)
class _Grids:
    """Where tokens come from: ``origins`` has the ``to_tokens`` node by the id of tokens, ``levels`` the
    level by the id of a picture."""

    graph: Graph
    origins: Mapping[int, Node]
    levels: Mapping[int, int]

    def is_self(self, node: Node) -> bool:
        """Whether a node is attention of a picture's tokens to themselves."""
        if node.op != "attention" or node.attributes["causal"]:
            return False
        makers = [self.graph.producer(value) for value in node.inputs]
        if any(maker is None or maker.op != "linear" for maker in makers):
            return False
        sources = {maker.inputs[0].id for maker in makers if maker is not None}
        return len(sources) == 1 and sources.pop() in self.origins

    def level(self, node: Node) -> int:
        """The level of a self-attention."""
        return self.levels[self.origins[node.inputs[0].id].inputs[0].id]


def _grids(graph: Graph) -> _Grids:
    origins: dict[int, Node] = {}
    levels = {port.value.id: _named(port.extents) for port in graph.inputs if port.value.kind is Kind.IMAGE}
    for node in graph.nodes:
        if node.output.kind is Kind.IMAGE:
            levels[node.output.id] = _level(node, levels)
        elif node.op == "to_tokens":
            origins[node.output.id] = node
        elif node.output.kind is Kind.TOKENS and node.inputs[0].id in origins:
            origins[node.output.id] = origins[node.inputs[0].id]
    return _Grids(graph, origins, levels)


def _named(extents: tuple[str, ...]) -> int:
    """The level of an input: ``height_4`` is the second halving's; a picture of pixels has none."""
    name, _, halved = extents[0].partition("_")
    if name != "height":
        return _PIXELS
    return int(halved).bit_length() if halved.isdigit() else 1


def _level(node: Node, levels: Mapping[int, int]) -> int:
    match node.op:
        case "downsample":
            return levels[node.inputs[0].id] + 1
        case "upsample":
            return levels[node.inputs[0].id] - 1
        case "upsample_like" | "to_image":
            return levels[node.inputs[1].id]
        case _:
            return max(levels[value.id] for value in node.inputs if value.kind is Kind.IMAGE)


class _Pass:
    """One walk over a recording; ``_as`` says which value now stands for another one."""

    def __init__(self, graph: Graph, reduction: Reduction) -> None:
        self._graph, self._reduction = graph, reduction
        self._grids = _grids(graph)
        self._next = 1 + max([p.value.id for p in graph.inputs] + [n.output.id for n in graph.nodes])
        self._as: dict[int, Value] = {}
        self._first: dict[int, Value] = {}  # the first picture of each level, whose size is asked for
        self._arranged: dict[int, Node] = {}  # by the id of a to_tokens' output
        self._thinned: dict[int, Value] = {}
        self._turn = 0
        self._nodes: list[Node] = []

    def graph(self) -> Graph:
        """Walk."""
        grids = self._grids
        for port in self._graph.inputs:
            if port.value.kind is Kind.IMAGE:
                self._first.setdefault(grids.levels[port.value.id], port.value)
        reduced_origins = {
            grids.origins[node.inputs[0].id].output.id: cut
            for node in self._graph.nodes
            if grids.is_self(node) and (cut := self._reduction.at(grids.level(node))) is not None
        }
        thinned = self._thin()
        for node in self._graph.nodes:
            if node.output.id in thinned:
                node = self._fed(node, *thinned[node.output.id])
            if grids.is_self(node) and (cut := self._reduction.at(grids.level(node))) is not None:
                self._attend(node, cut)
            elif node.op == "to_image" and grids.origins[node.inputs[0].id].output.id in self._arranged:
                self._restore(node)
            else:
                self._nodes.append(self._replaced(node))
            if node.output.kind is Kind.IMAGE:
                self._first.setdefault(grids.levels[node.output.id], node.output)
            cut_here = reduced_origins.get(node.output.id)
            if node.op == "to_tokens" and cut_here is not None and cut_here.way in ("tiles", "shifted"):
                self._arrange(node, cut_here)
        return replace(self._graph, nodes=tuple(self._nodes))

    def _thin(self) -> dict[int, tuple[Cut, int]]:
        """The projections of keys and values that read fewer tokens, by the id of what they make."""
        found: dict[int, tuple[Cut, int]] = {}
        for node in self._graph.nodes:
            if self._grids.is_self(node):
                level = self._grids.level(node)
                cut = self._reduction.at(level)
                if cut is not None and cut.way in ("pooled", "strided"):
                    found |= {value.id: (cut, level) for value in node.inputs[1:]}
        return found

    def _fed(self, node: Node, cut: Cut, level: int) -> Node:
        """A projection of what is left of its tokens; keys and values share it."""
        tokens = node.inputs[0]
        if tokens.id not in self._thinned:
            op = "pool_tokens" if cut.way == "pooled" else "stride_tokens"
            scope = node.scope.rpartition(".")[0]
            self._thinned[tokens.id] = self._add(op, (tokens, self._first[level]), scope, size=cut.size)
        return replace(node, inputs=(self._thinned[tokens.id],))

    def _arrange(self, node: Node, cut: Cut) -> None:
        shifted = cut.way == "shifted" and self._turn % 2 == 1
        self._turn += 1
        level = self._grids.levels[node.inputs[0].id]
        how: dict[str, Attribute] = {"size": cut.size, "shifted": shifted}
        made = self._add("arrange", (node.output, self._first[level]), node.scope, **how)
        self._as[node.output.id] = made
        self._arranged[node.output.id] = self._nodes[-1]

    def _restore(self, node: Node) -> None:
        arranged = self._arranged[self._grids.origins[node.inputs[0].id].output.id]
        tokens = self._as.get(node.inputs[0].id, node.inputs[0])
        made = self._add("restore", (tokens, arranged.inputs[1]), node.scope, **arranged.attributes)
        self._nodes.append(replace(node, inputs=(made, node.inputs[1])))

    def _attend(self, node: Node, cut: Cut) -> None:
        if cut.way in ("pooled", "strided"):
            self._nodes.append(self._replaced(node))
            return
        count = cut.size**2
        like = self._arranged[self._grids.origins[node.inputs[0].id].output.id].inputs[1]
        q, k, v = (
            self._add("windows", (value, like), node.scope, size=cut.size)
            for value in self._replaced(node).inputs
        )
        within = {**node.attributes, "windows": count}
        mixed = self._value(node.output)
        self._nodes.append(replace(node, inputs=(q, k, v), output=mixed, attributes=within))
        back = Node("unwindows", (mixed, like), node.output, {"size": cut.size}, (), node.scope)
        self._nodes.append(back)

    def _replaced(self, node: Node) -> Node:
        inputs = tuple(self._as.get(value.id, value) for value in node.inputs)
        return node if inputs == node.inputs else replace(node, inputs=inputs)

    def _add(self, op: str, inputs: tuple[Value, ...], scope: str, **attributes: Attribute) -> Value:
        made = self._value(inputs[0])
        self._nodes.append(Node(op, inputs, made, attributes, (), scope))
        return made

    def _value(self, like: Value) -> Value:
        self._next += 1
        return Value(self._next - 1, Kind.TOKENS, like.channels)
