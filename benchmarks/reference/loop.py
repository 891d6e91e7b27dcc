"""What every stage of training shares: an optimiser, averaged weights, a schedule, and a state that survives
a stop."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, roughly, by five Newton-Schulz steps (Jordan et al., 2024, "Muon")."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised, for weights with two or more axes."""

    def __init__(self, params: list[nn.Parameter], lr: float, decay: float = 0.01) -> None:
        super().__init__(params, dict(lr=lr, momentum=0.95, decay=decay))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                heavy = state["momentum"].mul_(group["momentum"]).add_(p.grad)
                flat = p.grad.add(heavy, alpha=group["momentum"]).reshape(p.shape[0], -1)
                scale = 0.2 * math.sqrt(max(flat.shape))
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(orthogonal(flat).reshape(p.shape), alpha=-group["lr"] * scale)


def optimizers(nets: list[nn.Module], lr: float, plain: tuple[str, ...] = ()) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices, AdamW for vectors, embeddings and parameters whose name holds a ``plain``
    part."""
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for net in nets:
        for name, p in net.named_parameters():
            if p.requires_grad:
                special = p.ndim < 2 or "embedding" in name or any(part in name for part in plain)
                (outer if special else inner).append(p)
    adam = torch.optim.AdamW(outer, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [adam, Muon(inner, lr)] if inner else [adam]


def learning_rate(done: float, peak: float, seconds: float, warm: float = 0.03, floor: float = 0.02) -> float:
    """Warm-up, then half a cosine: the rate after a share ``done`` of the budget."""
    del seconds
    if done < warm:
        return peak * done / warm
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm) / (1 - warm)))))


class Average:
    """Exponential moving average of weights, quick to forget at the start."""

    def __init__(self, nets: list[nn.Module], decay: float) -> None:
        self.live = [p for net in nets for p in net.parameters()]
        self.kept = [p.detach().clone() for p in self.live]
        self.decay, self.steps = decay, 0

    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.kept, [p.detach() for p in self.live], 1 - decay)

    def swap(self) -> None:
        """Exchange live and averaged weights: call it before and after scoring."""
        for p, q in zip(self.live, self.kept, strict=True):
            held = p.detach().clone()
            p.data.copy_(q)
            q.copy_(held)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state so that a stop at any moment leaves a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def machine() -> dict[str, Any]:
    """The machine a stage ran on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        name = models[0] if models else name
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    return {"processor": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def log(path: Path, stage: str, entry: dict[str, Any]) -> None:
    """Record a stage in the training log, replacing what an earlier call of the same stage wrote."""
    book = json.loads(path.read_text()) if path.exists() else {}
    book[stage] = {**entry, "machine": machine(), "ended": time.strftime("%Y-%m-%d")}
    path.write_text(json.dumps(book, indent=2) + "\n")
