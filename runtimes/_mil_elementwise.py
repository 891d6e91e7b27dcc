"""Operations on one number at a time: arithmetic, comparisons, functions, casts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, dtype_of, operation, room


def _quotient(x: Array, y: Array) -> Array:
    """``real_div``: whole numbers are divided as such, rounded towards zero."""
    if x.dtype.kind == "f":
        return np.asarray(np.true_divide(x, y))
    return np.asarray(np.trunc(np.true_divide(x, y)).astype(x.dtype))


_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": _quotient,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "pow": np.power,
}
_CHOOSING: Mapping[str, Callable[..., Any]] = {
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "cos": np.cos,
    "cosh": np.cosh,
    "exp": np.exp,
    "exp2": np.exp2,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}
_EXACT_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "logical_not": np.logical_not,
    "round": np.rint,
    "sign": np.sign,
}


def _binary(function: Callable[..., Any]) -> Callable[[Given], Kernel]:
    def kernel(x: Array, y: Array) -> Array:
        if x.shape != y.shape and x.ndim and y.ndim:
            room(np.broadcast_shapes(x.shape, y.shape))
        return np.asarray(function(x, y))

    return lambda given: kernel


def _unary(function: Callable[..., Any]) -> Callable[[Given], Kernel]:
    return lambda given: lambda x: np.asarray(function(x))


for _name, _function in _ARITHMETIC.items():
    operation(_name, tensors="x y")(_binary(_function))
for _name, _function in _CHOOSING.items():
    operation(_name, tensors="x y", exact=True)(_binary(_function))
for _name, _function in _FUNCTIONS.items():
    operation(_name)(_unary(_function))
for _name, _function in _EXACT_FUNCTIONS.items():
    operation(_name, exact=True)(_unary(_function))


@operation("rsqrt", "inverse", "log")
def guarded(given: Given) -> Kernel:
    """Functions of ``x + epsilon``, each with its own default."""
    epsilon = np.float32(given.value("epsilon", {"rsqrt": 1e-12, "inverse": 1e-4, "log": 1e-45}[given.kind]))
    if given.kind == "log":
        return lambda x: np.asarray(np.log(x + epsilon))
    root = np.sqrt if given.kind == "rsqrt" else np.positive
    return lambda x: np.asarray(np.float32(1) / root(x + epsilon))


@operation("clip", exact=True)
def clip(given: Given) -> Kernel:
    low, high = np.float32(given.value("alpha")), np.float32(given.value("beta"))
    return lambda x: np.clip(x, low, high).astype(x.dtype, copy=False)


@operation("threshold", exact=True)
def threshold(given: Given) -> Kernel:
    low = given.value("alpha")
    return lambda x: np.maximum(x, x.dtype.type(low))


@operation("select", tensors="cond a b", exact=True)
def select(given: Given) -> Kernel:
    def kernel(cond: Array, a: Array, b: Array) -> Array:
        room(np.broadcast_shapes(cond.shape, a.shape, b.shape))
        return np.where(cond, a, b)

    return kernel


@operation("cast")
def cast(given: Given) -> Kernel:
    """Between numbers; to whole ones towards zero."""
    name = {"fp16": "float16", "fp32": "float32"}.get(str(given.value("dtype")), str(given.value("dtype")))
    dtype = dtype_of(name)
    if dtype is None:
        raise given.unsupported(f"dtype {name!r}")

    def kernel(x: Array) -> Array:
        if dtype is np.bool_:
            return np.asarray(x != 0)
        if x.dtype.kind == "f" and dtype is not np.float32:
            info = np.iinfo(dtype)  # NumPy wraps around in ways that differ between machines
            whole = np.clip(np.nan_to_num(np.trunc(x.astype(np.float64))), info.min, info.max)
            return np.asarray(whole.astype(dtype))
        return np.asarray(x.astype(dtype))

    return kernel
