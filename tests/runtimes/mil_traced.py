"""coremltools' own conversions of PyTorch modules, as ground truth that nobody here wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_helpers import ct, quiet

torch = pytest.importorskip("torch")

from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.frontend.torch import ops as front  # noqa: E402

_cast = front._cast


def _scalar_cast(context: Any, node: Any, dtype: Any, name: str) -> None:
    """coremltools 9 calls int() on arrays of one element, which NumPy 2.4 refuses."""
    try:
        _cast(context, node, dtype, name)
    except TypeError:
        value = front._get_inputs(context, node, expected=1)[0]
        context.add(mb.const(val=dtype(value.val.item()), name=node.name), node.name)


class Positional(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A module whose call is a function of tensors that returns tensors."""

    def __init__(self, module: Any, call: Any) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *tensors: Any) -> Any:
        return self.call(self.module, *tensors)


def convert(
    path: Path, module: Any, call: Any, tensors: Sequence[Any], target: str, half: bool, compress: Any = None
) -> tuple[dict[str, Any], list[Any]]:
    """Trace ``call(module, *tensors)``, convert and save it; return its feeds and what PyTorch computes.

    ``compress`` changes the converted model before it is saved.
    """
    wrapped = Positional(module.eval(), call)
    names = [f"in_{i}" for i in range(len(tensors))]
    with quiet(), torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(front, "_cast", _scalar_cast)
        due = wrapped(*tensors)
        due = [due] if isinstance(due, torch.Tensor) else list(due)
        traced = torch.jit.trace(wrapped, tuple(tensors), strict=False, check_trace=False)
        model = ct.convert(
            traced,
            inputs=[
                ct.TensorType(name, shape=tuple(tensor.shape), dtype=_dtype(tensor))
                for name, tensor in zip(names, tensors, strict=True)
            ],
            outputs=[ct.TensorType(f"out_{i}", dtype=np.float32) for i in range(len(due))],
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
        )
        if compress is not None:
            model = compress(model)
        model.save(str(path))
    feeds = {name: tensor.numpy().astype(_dtype(tensor)) for name, tensor in zip(names, tensors, strict=True)}
    return feeds, [value.numpy() for value in due]


def _dtype(tensor: Any) -> Any:
    return np.float32 if tensor.is_floating_point() else np.int32


def randomise(module: Any, seed: int = 0) -> Any:
    """Weights of ordinary sizes, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / max(parameter[0].numel(), 1) ** 0.5)
            else:
                parameter.copy_(noise * 0.1 + (1.0 if "norm" in name and "weight" in name else 0.0))
    return module
