"""Optimisers, learning rates, random numbers and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def adam(*nets: nn.Module, beta: float = 0.99) -> torch.optim.AdamW:
    """The optimiser of every phase; ``descend`` sets its rate."""
    params = [p for net in nets for p in net.parameters() if p.requires_grad]
    return torch.optim.AdamW(params, lr=0.0, betas=(0.9, beta), weight_decay=0.0, fused=True)


def descend(loss: Tensor, *rates: tuple[torch.optim.Optimizer, float], clip: float = 1.0) -> None:
    """One step of each optimiser at its learning rate, the gradients of each clipped by their norm."""
    loss.backward()  # type: ignore[no-untyped-call]
    for optimizer, rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        optimizer.step()
        optimizer.zero_grad()


def linear(step: int, share: float, warm: int, fall: float) -> float:
    """Warm-up over ``warm`` steps, then 1, then a line down to 0.02 over the last ``fall`` of the budget."""
    return min(1.0, (step + 1) / warm) * min(1.0, max(0.02, (1 - share) / fall))


def cosine(step: int, share: float, warm: int) -> float:
    """Warm-up over ``warm`` steps under half a cosine that ends at 0.02."""
    return min(1.0, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def generator(phase: int, step: int) -> torch.Generator:
    """The random numbers of one step of a phase, the same on every device and after every stop."""
    return torch.Generator().manual_seed(phase * 2**32 + step)


class Average:
    """Exponential moving average of a network's weights, quick to forget at the start."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.live = dict(net.named_parameters())
        self.kept = {name: p.detach().clone() for name, p in self.live.items()}
        self.decay, self.steps = decay, 0

    def update(self) -> None:
        """Move towards the live weights."""
        self.steps += 1
        weight = 1 - min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(list(self.kept.values()), [p.detach() for p in self.live.values()], weight)

    def put(self) -> None:
        """Overwrite the live weights."""
        for name, p in self.live.items():
            p.data.copy_(self.kept[name])

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of updates."""
        return {"kept": self.kept, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read back what ``state_dict`` gave."""
        self.steps = state["steps"]
        for name, value in state["kept"].items():
            self.kept[name].copy_(value)
