"""Parsing: the text encoder learns to say what a caption states before it helps to draw it.

A classifier reads the last state, which has seen the whole caption, and names colour, shape, size and cell of
up to three objects, the relation and the background; 0 means that the caption is silent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.grammar import BACKGROUNDS, CELLS, COLOURS, RELATIONS, SHAPES, SIZES, Scene

OBJECTS = 3
CHOICES = (
    *(len(names) + 1 for _ in range(OBJECTS) for names in (COLOURS, SHAPES, SIZES, CELLS)),
    len(RELATIONS) + 1,
    len(BACKGROUNDS) + 1,
)


def target(scene: Scene) -> list[int]:
    """The right answers, in the order of ``CHOICES``."""
    answers = []
    for thing in scene.objects:
        size = 0 if thing.size is None else list(SIZES).index(thing.size) + 1
        cell = 0 if thing.cell is None else thing.cell + 1
        answers += [list(COLOURS).index(thing.colour) + 1, SHAPES.index(thing.shape) + 1, size, cell]
    answers += [0] * (4 * (OBJECTS - len(scene.objects)))
    relation = 0 if scene.relation is None else RELATIONS.index(scene.relation) + 1
    background = list(BACKGROUNDS).index(scene.background) + 1 if scene.background_stated else 0
    return [*answers, relation, background]


class Parser(nn.Module):
    """One linear layer over the last state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, sum(CHOICES))

    def forward(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the share of captions of which everything is right."""
        parts = self.head(states[:, -1]).split(CHOICES, 1)
        loss = torch.stack([F.cross_entropy(part, targets[:, i]) for i, part in enumerate(parts)]).sum()
        right = torch.stack([part.argmax(1) for part in parts], 1) == targets
        return loss, right.all(1).float().mean()
