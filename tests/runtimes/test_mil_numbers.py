"""Arithmetic, functions, norms and sums against their formulas in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb
from mil_cases import Cases, X, normal, np_type, positive, softmax

case = Cases()


def _erf(x: Any) -> Any:
    from math import erf

    return np.vectorize(erf)(x)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _norm(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


for _name, _truth in {
    "abs": np.abs, "ceil": np.ceil, "cos": np.cos, "exp": np.exp, "exp2": np.exp2, "floor": np.floor,
    "erf": _erf, "round": np.rint, "sign": np.sign, "sin": np.sin, "sinh": np.sinh, "cosh": np.cosh,
    "square": np.square, "tanh": np.tanh, "tan": np.tan, "atan": np.arctan,
    "relu": lambda x: np.maximum(x, 0), "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": _sigmoid, "silu": lambda x: x * _sigmoid(x),
    "softplus": lambda x: np.log1p(np.exp(x)), "softsign": lambda x: x / (1 + np.abs(x)),
}.items():  # fmt: skip
    case(_name, lambda x, f=_name: getattr(mb, f)(x=x), _truth, x=X)
U = positive(2, 3) * 0.8
for _name, _truth in {
    "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "acos": np.arccos, "asin": np.arcsin,
    "atanh": np.arctanh, "log": np.log,
}.items():  # fmt: skip
    case(_name, lambda x, f=_name: getattr(mb, f)(x=x), _truth, x=U)
case("inverse", lambda x: mb.inverse(x=x, epsilon=0.25), lambda x: 1 / (x + 0.25), x=U)
case("rsqrt with epsilon", lambda x: mb.rsqrt(x=x, epsilon=0.5), lambda x: 1 / np.sqrt(x + 0.5), x=U)
case("log with epsilon", lambda x: mb.log(x=x, epsilon=0.5), lambda x: np.log(x + 0.5), x=U)

Y = normal(3, 1, 5)
for _name, _truth in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
}.items():  # fmt: skip
    case(_name, lambda x, y, f=_name: getattr(mb, f)(x=x, y=y), _truth, x=X, y=Y)
case("real_div", lambda x, y: mb.real_div(x=x, y=y), np.divide, x=X, y=positive(3, 1, 5))
case("floor_div", lambda x, y: mb.floor_div(x=x, y=y), np.floor_divide, x=X, y=np.float32([0.5]))
case("mod", lambda x, y: mb.mod(x=x, y=y), np.mod, x=X, y=np.float32([0.5]))
case("pow", lambda x, y: mb.pow(x=x, y=y), np.power, x=U, y=np.float32([2.5]))
case(
    "compare and select",
    lambda x, y: (
        mb.select(
            cond=mb.logical_and(
                x=mb.greater(x=x, y=y), y=mb.logical_not(x=mb.less_equal(x=x, y=np.float32(0)))
            ),
            a=x,
            b=y,
        )
        if x.dtype.__name__ == "fp32"
        else mb.select(cond=mb.greater(x=x, y=mb.maximum(x=y, y=np.float16(0))), a=x, b=y)
    ),
    lambda x, y: np.where((x > y) & (x > 0), x, y),
    x=X,
    y=normal(2, 3, 4, 5),
)

case(
    "clip",
    lambda x: mb.clip(x=x, alpha=np_type(x)(-0.5), beta=np_type(x)(0.25)),
    lambda x: np.clip(x, -0.5, 0.25),
    x=X,
)
case("threshold", lambda x: mb.threshold(x=x, alpha=np_type(x)(0.25)), lambda x: np.maximum(x, 0.25), x=X)
case("leaky_relu", lambda x: mb.leaky_relu(x=x, alpha=0.25), lambda x: np.where(x < 0, x / 4, x), x=X)
case("elu", lambda x: mb.elu(x=x, alpha=0.5), lambda x: np.where(x < 0, 0.5 * np.expm1(x), x), x=X)
case("sigmoid_hard", lambda x: mb.sigmoid_hard(x=x, alpha=0.25, beta=0.5),
     lambda x: np.clip(x / 4 + 0.5, 0, 1), x=X)  # fmt: skip
case("clamped_relu", lambda x: mb.clamped_relu(x=x, alpha=0.5, beta=0.75),
     lambda x: np.minimum(np.where(x < 0, x / 2, x), 0.75), x=X)  # fmt: skip
case("scaled_tanh", lambda x: mb.scaled_tanh(x=x, alpha=0.5, beta=2.0), lambda x: np.tanh(2 * x) / 2, x=X)
case("linear_activation", lambda x: mb.linear_activation(x=x, alpha=0.5, beta=2.0), lambda x: x / 2 + 2, x=X)
case("prelu", lambda x: mb.prelu(x=x, alpha=np.float32([0.5, 0.25, 2]).astype(np_type(x))),
     lambda x: np.where(x < 0, x * np.array([0.5, 0.25, 2])[:, None, None], x), x=X)  # fmt: skip
case("gelu EXACT", lambda x: mb.gelu(x=x, mode="EXACT"), lambda x: x * (1 + _erf(x / 2**0.5)) / 2, x=X)
case("gelu TANH", lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
     lambda x: x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2, x=X)  # fmt: skip
case("gelu SIGMOID", lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
     lambda x: x * _sigmoid(1.702 * x), x=X)  # fmt: skip


for _axis in (-1, 0, 1, 2):
    case(
        f"softmax {_axis}", lambda x, a=_axis: mb.softmax(x=x, axis=a), lambda x, a=_axis: softmax(x, a), x=X
    )
WIDE = normal(2, 700, 3, 300)
case("softmax in pieces", lambda x: mb.softmax(x=x, axis=1), lambda x: softmax(x, 1), x=WIDE)
case("softmax in rows", lambda x: mb.softmax(x=x, axis=-1), lambda x: softmax(x, -1), x=WIDE)

G, B = positive(3), normal(3)
case("layer_norm", lambda x: mb.layer_norm(x=x, axes=[1], gamma=G.astype(np_type(x)),
     beta=B.astype(np_type(x)), epsilon=np_type(x)(1e-3)),
     lambda x: _norm(x, (1,), 1e-3) * G[:, None, None] + B[:, None, None], x=X)  # fmt: skip
case("layer_norm without", lambda x: mb.layer_norm(x=x, axes=[-2, -1]), lambda x: _norm(x, (2, 3), 1e-5), x=X)
case("instance_norm", lambda x: mb.instance_norm(x=x, gamma=G.astype(np_type(x)), beta=B.astype(np_type(x)),
     epsilon=np_type(x)(1e-3)),
     lambda x: _norm(x, (2, 3), 1e-3) * G[:, None, None] + B[:, None, None], x=X)  # fmt: skip
case("norms of large means", lambda x: mb.instance_norm(x=x), lambda x: _norm(x, (2, 3), 1e-5), x=X + 16)
M, V = normal(3), positive(3)
case("batch_norm", lambda x: mb.batch_norm(x=x, mean=M.astype(np_type(x)), variance=V.astype(np_type(x)),
     gamma=G.astype(np_type(x)), beta=B.astype(np_type(x)), epsilon=np_type(x)(1e-3)),
     lambda x: (x - M[:, None, None]) / np.sqrt(V[:, None, None] + 1e-3) * G[:, None, None]
     + B[:, None, None], x=X)  # fmt: skip
case("l2_norm", lambda x: mb.l2_norm(x=x, epsilon=np_type(x)(1e-3)),
     lambda x: x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True) + 1e-3), x=X)  # fmt: skip

for _name, _truth in {
    "reduce_sum": np.sum, "reduce_mean": np.mean, "reduce_max": np.max, "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_l1_norm": lambda x, **how: np.abs(x).sum(**how),
    "reduce_l2_norm": lambda x, **how: np.sqrt((x**2).sum(**how)),
    "reduce_sum_square": lambda x, **how: (x**2).sum(**how),
    "reduce_log_sum_exp": lambda x, **how: np.log(np.exp(x).sum(**how)),
}.items():  # fmt: skip
    for _axes, _keep in (([1, 3], True), ([-1], False)):
        case(f"{_name} {_axes} {_keep}",
             lambda x, f=_name, a=_axes, k=_keep: getattr(mb, f)(x=x, axes=a, keep_dims=k),
             lambda x, f=_truth, a=_axes, k=_keep: f(x, axis=tuple(a), keepdims=k), x=X)  # fmt: skip
case("reduce_log_sum", lambda x: mb.reduce_log_sum(x=x, axes=[1]), lambda x: np.log(x.sum(1)), x=U)
for _name in ("argmax", "argmin"):
    case(f"reduce_{_name}", lambda x, f=_name: getattr(mb, f"reduce_{f}")(x=x, axis=1, keep_dims=True),
         lambda x, f=_name: getattr(np, f)(x, axis=1, keepdims=True), x=X)  # fmt: skip


@pytest.mark.parametrize("name", case)
def test_formula(name: str, tmp_path: Path) -> None:
    case.check(name, tmp_path)
