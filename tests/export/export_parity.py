"""What the comparisons with PyTorch share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from edgediff.export.sources import weight_files
from edgediff.export.tensors import TensorFiles, Tensors

torch.set_num_threads(1)


def randomise(module: Any, seed: int = 0) -> Any:
    """Give every parameter non-trivial numbers that keep activations near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                drawn = 0.1 * drawn
            elif parameter.ndim == 1:
                drawn = 1 + 0.3 * drawn
            elif "embedding" not in name:
                drawn = drawn * (parameter[0].numel() ** -0.5)
            parameter.copy_(drawn)
    return module.eval()


def halved(module: Any) -> None:
    """Round matrices and kernels to float16, as fp16 storage does."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())


def saved(module: Any, folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Save as the library does, and read back what the exporter reads."""
    module.save_pretrained(folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return TensorFiles(weight_files(folder)), config
