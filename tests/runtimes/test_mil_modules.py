"""coremltools' own conversions of PyTorch's layers and functions: the interpreter against PyTorch.

Each group is one program with an output for each function, so that a conversion pays for many.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

from mil_helpers import ct, load, quiet, ran, relative  # noqa: E402
from mil_traced import Positional, convert, randomise  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as f  # noqa: E402

pytestmark = pytest.mark.parity

Functions = dict[str, Callable[..., Any]]


def rand(*shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


LAYERS: dict[str, Any] = {
    "conv": nn.Conv2d(8, 12, 3, padding=1),
    "strided": nn.Conv2d(8, 12, 3, stride=2, padding=1),
    "uneven": nn.Conv2d(8, 12, (3, 1), padding=(2, 0), stride=(1, 2)),
    "dilated": nn.Conv2d(8, 12, 3, dilation=2),
    "grouped": nn.Conv2d(8, 12, 3, groups=4),
    "each channel": nn.Conv2d(8, 16, 3, groups=8, padding=1, bias=False),
    "point": nn.Conv2d(8, 12, 1),
    "few": nn.Conv2d(8, 2, 3, padding=1),
    "group norm": nn.GroupNorm(4, 8, eps=1e-6),
    "instance norm": nn.InstanceNorm2d(8, affine=True),
    "batch norm": nn.BatchNorm2d(8),
    "layer norm": nn.LayerNorm(6),
    "layer norm over two": nn.LayerNorm([10, 6]),
    "linear": nn.Linear(6, 9),
    "no bias": nn.Linear(6, 9, bias=False),
    "prelu": nn.PReLU(8),
    "average": nn.AvgPool2d(2),
    "average, padded": nn.AvgPool2d(3, stride=2, padding=1),
    "average, inside": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "largest": nn.MaxPool2d(3, stride=2, padding=1),
    "all": nn.AdaptiveAvgPool2d(1),
    "shuffle": nn.PixelShuffle(2),
    "unshuffle": nn.PixelUnshuffle(2),
    "nearest": nn.Upsample(scale_factor=2),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "corners": nn.Upsample(scale_factor=3, mode="bilinear", align_corners=True),
}
POINTWISE: Functions = {
    "relu": f.relu, "relu6": f.relu6, "leaky": lambda x: f.leaky_relu(x, 0.2), "elu": f.elu,
    "silu": f.silu, "gelu": f.gelu, "gelu tanh": lambda x: f.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": f.softplus, "softsign": f.softsign,
    "hard sigmoid": f.hardsigmoid, "hard swish": f.hardswish, "erf": torch.erf, "exp": torch.exp,
    "log": lambda x: torch.log(x.abs() + 1), "sqrt": lambda x: x.abs().sqrt(),
    "rsqrt": lambda x: (x.abs() + 1).rsqrt(), "square": torch.square, "pow": lambda x: x**3,
    "quotient": lambda x: x / (x.abs() + 1), "sin": torch.sin, "cos": torch.cos, "abs": torch.abs,
    "clamp": lambda x: x.clamp(-0.5, 0.7), "clamp below": lambda x: x.clamp(min=0.1),
    "floor": torch.floor, "ceil": torch.ceil, "round": torch.round, "sign": torch.sign,
    "where": lambda x: torch.where(x > 0.1, x, x * 2), "fill": lambda x: x.masked_fill(x < 0, -3.0),
    "max": lambda x: torch.maximum(x, x.flip(-1)), "sum of axes": lambda x: x.sum((1, 3)),
    "mean": lambda x: x.mean(-1, keepdim=True), "largest": lambda x: x.amax((2, 3)),
    "least": lambda x: x.amin(1), "position": lambda x: x.argmax(1), "norm": lambda x: x.norm(dim=1),
    "unit": lambda x: f.normalize(x, dim=1), "variance": lambda x: x.var(1, unbiased=False),
    "softmax": lambda x: x.softmax(-1), "softmax of channels": lambda x: x.softmax(1),
    "total": lambda x: x.cumsum(2),
}  # fmt: skip
MOVES: Functions = {
    "permute": lambda x: x.permute(0, 2, 3, 1), "flatten": lambda x: x.flatten(2),
    "view": lambda x: x.view(2, 4, -1),
    "cat": lambda x: torch.cat([x, x * 2], 1), "stack": lambda x: torch.stack([x, -x], 2),
    "chunk": lambda x: x.chunk(2, 1)[1], "split": lambda x: x.split([3, 5], 1)[0],
    "slice": lambda x: x[:, 1:-2, ::2], "pick": lambda x: x[:, -1], "narrow": lambda x: x.narrow(2, 3, 4),
    "flip": lambda x: x.flip(2), "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "expand": lambda x: x[:, :, None].expand(-1, -1, 3, -1, -1),
    "interleave": lambda x: x.repeat_interleave(2, 0),
    "unsqueeze": lambda x: x[:, None], "squeeze": lambda x: x[:1].squeeze(0),
    "zeros": lambda x: f.pad(x, (1, 2, 0, 1)), "value": lambda x: f.pad(x, (1, 0, 0, 0), value=0.5),
    "reflect": lambda x: f.pad(x, (1, 2, 3, 1), mode="reflect"),
    "replicate": lambda x: f.pad(x, (1, 2, 0, 1), mode="replicate"),
    "nearest": lambda x: f.interpolate(x, size=(20, 18)),
    "bilinear": lambda x: f.interpolate(x, size=(7, 5), mode="bilinear"),
    "lower": lambda x: torch.tril(x), "chosen": lambda x: x[:, torch.tensor([3, 0, 1])],
    "range": lambda x: x + torch.arange(6), "ones": lambda x: x + torch.ones_like(x),
    "waves": lambda x: torch.sin(torch.exp(torch.arange(6) * -0.5) * x),
}  # fmt: skip
PRODUCTS: Functions = {
    "matmul": lambda a, b, v: a @ b.transpose(-1, -2),
    "scores": lambda a, b, v: torch.einsum("bhqc,bhkc->bhqk", a, b),
    "sums": lambda a, b, v: torch.einsum("bhqk,bhkc->bhqc", (a @ b.transpose(-1, -2)).softmax(-1), v),
    "neural engine": lambda a, b, v: torch.einsum(
        "bchq,bkhc->bkhq", a.permute(0, 3, 1, 2)[:, :, :1], b.permute(0, 2, 1, 3)[:, :, :1]
    ),
    "attention": lambda a, b, v: f.scaled_dot_product_attention(a, b, v),
    "masked": lambda a, b, v: f.scaled_dot_product_attention(
        a, b, v, attn_mask=torch.arange(7)[:, None] >= torch.arange(5)
    ),
    "biased": lambda a, b, v: f.scaled_dot_product_attention(
        a, b, v, attn_mask=-torch.arange(5.0).expand(7, 5)
    ),
    "flat": lambda a, b, v: torch.bmm(a.flatten(0, 1), b.flatten(0, 1).transpose(1, 2)),
    "added": lambda a, b, v: torch.baddbmm(
        torch.ones(6, 7, 5), a.flatten(0, 1), b.flatten(0, 1).transpose(1, 2), beta=0.5, alpha=0.3
    ),
}
GROUPS: dict[str, tuple[Functions, list[Any]]] = {
    "layers": (LAYERS, [rand(2, 8, 10, 6)]),
    "pointwise": (POINTWISE, [rand(2, 8, 10, 6)]),
    "moves": (MOVES, [rand(2, 8, 10, 6)]),
    "products": (PRODUCTS, [rand(2, 3, 7, 4), rand(2, 3, 5, 4), rand(2, 3, 5, 4)]),
}


@pytest.mark.parametrize(
    ("target", "half"),
    [
        pytest.param("iOS15", False, marks=pytest.mark.slow),
        pytest.param("iOS16", True, marks=pytest.mark.slow),
        ("iOS17", True),
        ("iOS18", False),
    ],
)
@pytest.mark.parametrize("group", GROUPS)
def test_functions(group: str, target: str, half: bool, tmp_path: Path) -> None:
    functions, tensors = GROUPS[group]
    if target == "iOS15":  # which has no pixel_unshuffle
        functions = {name: function for name, function in functions.items() if name != "unshuffle"}
    layers = randomise(nn.ModuleList([value for value in functions.values() if isinstance(value, nn.Module)]))
    path = tmp_path / "a.mlpackage"

    def call(_: Any, *given: Any) -> Any:
        return tuple(function(*given) for function in functions.values())

    if half:  # what is near a step or an edge would fall on its other side
        tensors = [tensor.half().float() for tensor in tensors]
    feeds, due = convert(path, layers, call, tensors, target, half)
    found = ran(path, feeds)
    errors = {name: relative(found[f"out_{i}"], due[i]) for i, name in enumerate(functions)}
    limit = 6e-3 if half else 1e-5
    assert not {name: error for name, error in errors.items() if not error < limit}


def test_an_input_of_several_sizes(tmp_path: Path) -> None:
    sizes = [(1, 3, 8, 8), (1, 3, 6, 12), (1, 3, 16, 16)]
    module = Positional(
        randomise(nn.Conv2d(3, 4, 3, padding=1)).eval(), lambda m, x: f.interpolate(m(x), scale_factor=2)
    )
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(module, torch.zeros(sizes[0]))
        shape = ct.EnumeratedShapes(shapes=sizes, default=sizes[0])
        ct.convert(
            traced, inputs=[ct.TensorType("x", shape=shape)], outputs=[ct.TensorType("y")],
            convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32, skip_model_load=True,
        ).save(str(tmp_path / "a.mlpackage"))  # fmt: skip
    graph = load(tmp_path / "a.mlpackage")
    assert graph.info.inputs[0].dims == (1, 3, "x_2", "x_3")
    assert graph.info.outputs[0].dims[:2] == (1, 4)
    for size in sizes:
        x = rand(*size)
        with torch.no_grad():
            assert relative(graph({"x": x.numpy()})["y"], module(x).numpy()) < 1e-5
    from edgediff.errors import InputError

    with pytest.raises(InputError, match=r"\[1, 3, 8, 8\] or "):
        graph({"x": np.zeros((1, 3, 8, 9), np.float32)})
