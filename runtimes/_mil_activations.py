"""Activations: functions of one number that take several steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, operation

_BLOCK = 1 << 15  # elements, so that the steps of a formula stay in the cache


@operation("relu", "relu6", exact=True)
def relu(given: Given) -> Kernel:
    if given.kind == "relu":
        return lambda x: np.maximum(x, x.dtype.type(0))
    return lambda x: np.clip(x, np.float32(0), np.float32(6))


@operation("leaky_relu", "elu", "clamped_relu", "thresholded_relu", "sigmoid_hard", "scaled_tanh")
def shaped(given: Given) -> Kernel:
    """Activations with numbers of their own, in coremltools' formulas."""
    alpha = np.float32(given.value("alpha", _ALPHA.get(given.kind)))
    beta = np.float32(given.value("beta", 0.5 if given.kind == "sigmoid_hard" else 1.0))
    one, zero = np.float32(1), np.float32(0)
    formulas: Mapping[str, Kernel] = {
        "leaky_relu": lambda x: np.where(x < 0, x * alpha, x),
        "elu": lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, zero)), x),
        "clamped_relu": lambda x: np.minimum(np.where(x < 0, x * alpha, x), beta),
        "thresholded_relu": lambda x: np.where(x < alpha, zero, x),
        "sigmoid_hard": lambda x: np.clip(alpha * x + beta, zero, one),
        "scaled_tanh": lambda x: alpha * np.tanh(x * beta),
    }
    return formulas[given.kind]


_ALPHA = {
    "leaky_relu": 0.01,
    "elu": 1.0,
    "clamped_relu": 1.0,
    "thresholded_relu": 1.0,
    "sigmoid_hard": 0.2,
    "scaled_tanh": 1.0,
}


@operation("linear_activation")
def linear_activation(given: Given) -> Kernel:
    alpha, beta = np.float32(given.value("alpha")), np.float32(given.value("beta", 0.0))
    return lambda x: x * alpha + beta


@operation("prelu", tensors="x alpha")
def prelu(given: Given) -> Kernel:
    def kernel(x: Array, alpha: Array) -> Array:
        return np.where(x < 0, x * alpha.reshape(-1, *[1] * (x.ndim - 2)), x)

    return kernel


def _sigmoid(x: Array, scale: float = 1.0) -> Array:
    """1 / (1 + exp(-scale x)); where the exponential overflows the quotient is 0, as it should be."""
    out = np.multiply(x, np.float32(-scale))
    np.exp(out, out=out)
    np.add(out, np.float32(1), out=out)
    return np.asarray(np.divide(np.float32(1), out, out=out))


def _silu(x: Array) -> Array:
    return np.multiply(x, _sigmoid(x))


def erf(x: Array) -> Array:
    """The error function to 3e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26)."""
    size = np.abs(x)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * size)
    series = np.full_like(t, 1.061405429)
    for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series *= t
        series += np.float32(term)
    series *= t
    np.multiply(size, -size, out=size)
    series *= np.exp(size, out=size)
    np.subtract(np.float32(1), series, out=series)
    return np.asarray(np.copysign(series, x))


def _gelu(x: Array) -> Array:
    out = erf(x * np.float32(0.5**0.5))
    out += np.float32(1)
    out *= x
    out *= np.float32(0.5)
    return out


def _gelu_tanh(x: Array) -> Array:
    cubic = x * x * x * np.float32(0.044715) + x
    return np.asarray(np.float32(0.5) * x * (np.float32(1) + np.tanh(cubic * np.float32((2 / np.pi) ** 0.5))))


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(x, np.float32(0)))


def _blockwise(function: Callable[[Array], Array]) -> Kernel:
    """The function over a few elements at a time."""

    def kernel(x: Array) -> Array:
        if x.size <= _BLOCK:
            return np.asarray(function(x))
        flat = np.ascontiguousarray(x).reshape(-1)
        out = np.empty(x.shape, np.float32)
        filled = out.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            filled[start : start + _BLOCK] = function(flat[start : start + _BLOCK])
        return out

    return kernel


_SMOOTH: Mapping[str, Callable[[Array], Array]] = {
    "sigmoid": _sigmoid,
    "silu": _silu,
    "erf": erf,
    "softplus": _softplus,
    "softsign": lambda x: x / (np.float32(1) + np.abs(x)),
}
_GELU: Mapping[str, Callable[[Array], Array]] = {
    "EXACT": _gelu,
    "TANH_APPROXIMATION": _gelu_tanh,
    "SIGMOID_APPROXIMATION": lambda x: x * _sigmoid(x, 1.702),
}


@operation(*_SMOOTH)
def smooth(given: Given) -> Kernel:
    return _blockwise(_SMOOTH[given.kind])


@operation("gelu")
def gelu(given: Given) -> Kernel:
    return _blockwise(_GELU[given.choice("mode", "EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")])
