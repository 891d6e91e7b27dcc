"""What limits are measured with: chains of products, or of convolutions, and nothing else.

Input and output are small, so that hardly anything but the chain takes time. The sizes are those of a
full-size U-Net's layers. Integers come in the forms that providers are known to compute fast; the fastest one
counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff.bench.onnx_writer import MICROSOFT, Model

ROWS, WIDTH, CHAIN = 1024, 1280, 6
CHANNELS, SIDE, CONVOLUTIONS = 320, 64, 4
_EDGE = 8  # channels of input and output
_SCALE = 1 / 32  # of codes: activations from -4 to 4


@dataclass(frozen=True, slots=True)
class Kernel:
    """A model, its input's shape, the work of its chain in floating-point operations, and what it is."""

    kind: str
    form: str
    model: bytes
    shape: tuple[int, ...]
    flops: int
    how: str


def floats() -> list[Kernel]:
    """Kernels whose precision the provider chooses."""
    return [_gemm("float", _matmul), _conv("float", _convolution)]


def integers(provider: str) -> list[Kernel]:
    """Kernels of 8-bit integers in the forms that the provider may compute fast."""
    if provider == "CPUExecutionProvider":
        return [
            _gemm("u8s8", _matmul_to_float),
            _conv("u8s8, weight zero point 0", _qlinear_conv(0)),
            _conv("u8s8, weight zero point -1", _qlinear_conv(-1)),
        ]
    return [_gemm("s8s8 pairs", _paired_matmul), _conv("s8s8 pairs", _paired_conv)]


def _gemm(form: str, layer: Callable[[Model, str, NDArray[np.float32]], str]) -> Kernel:
    model, draw = Model(), np.random.default_rng(0)
    x = model.node("MatMul", "x", model.constant(_normal(draw, _EDGE, WIDTH, fan=_EDGE)))
    for _ in range(CHAIN):
        x = layer(model, x, _normal(draw, WIDTH, WIDTH, fan=WIDTH))
    y = model.node("MatMul", x, model.constant(_normal(draw, WIDTH, _EDGE, fan=WIDTH)))
    written = model.written({"x": (ROWS, _EDGE)}, {y: (ROWS, _EDGE)})
    how = f"{CHAIN} products, {ROWS}x{WIDTH} by {WIDTH}x{WIDTH}, one after the other ({form})"
    return Kernel("gemm", form, written, (ROWS, _EDGE), 2 * CHAIN * ROWS * WIDTH * WIDTH, how)


def _conv(form: str, layer: Callable[[Model, str, NDArray[np.float32]], str]) -> Kernel:
    model, draw = Model(), np.random.default_rng(0)
    first = _normal(draw, CHANNELS, _EDGE, 1, 1, fan=_EDGE)
    x = model.node("Conv", "x", model.constant(first), kernel_shape=[1, 1])
    for _ in range(CONVOLUTIONS):
        x = layer(model, x, _normal(draw, CHANNELS, CHANNELS, 3, 3, fan=9 * CHANNELS))
    last = _normal(draw, _EDGE, CHANNELS, 1, 1, fan=CHANNELS)
    y = model.node("Conv", x, model.constant(last), kernel_shape=[1, 1])
    shape = (1, _EDGE, SIDE, SIDE)
    flops = 2 * CONVOLUTIONS * 9 * CHANNELS * CHANNELS * SIDE * SIDE
    how = (
        f"{CONVOLUTIONS} convolutions, 3x3 from {CHANNELS} to {CHANNELS} channels at {SIDE}x{SIDE}, one "
        f"after the other ({form})"
    )
    return Kernel("conv", form, model.written({"x": shape}, {y: shape}), shape, flops, how)


def _normal(draw: np.random.Generator, *shape: int, fan: int) -> NDArray[np.float32]:
    """Weights that keep the size of what they are multiplied with."""
    drawn: NDArray[np.float32] = (draw.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
    return drawn


def _matmul(model: Model, x: str, weight: NDArray[np.float32]) -> str:
    return model.node("MatMul", x, model.constant(weight))


def _convolution(model: Model, x: str, weight: NDArray[np.float32]) -> str:
    return model.node("Conv", x, model.constant(weight), **_WINDOW)


_WINDOW: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def _codes(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], np.float32]:
    scale = np.float32(np.abs(weight).max() / 127)
    return np.rint(weight / scale).astype(np.int8), scale


def _matmul_to_float(model: Model, x: str, weight: NDArray[np.float32]) -> str:
    codes, scale = _codes(weight)
    by, zero = model.constant(np.array(_SCALE, np.float32)), model.constant(np.array(128, np.uint8))
    quantized = model.node("QuantizeLinear", x, by, zero)
    given = (quantized, model.constant(codes), by, model.constant(np.array(scale, np.float32)), zero)
    return model.node("MatMulIntegerToFloat", *given, domain=MICROSOFT)


def _qlinear_conv(zero_point: int) -> Callable[[Model, str, NDArray[np.float32]], str]:
    def layer(model: Model, x: str, weight: NDArray[np.float32]) -> str:
        codes, scale = _codes(weight)
        stored = np.clip(codes.astype(np.int16) + zero_point, -128, 127).astype(np.int8)
        by, zero = model.constant(np.array(_SCALE, np.float32)), model.constant(np.array(128, np.uint8))
        quantized = model.node("QuantizeLinear", x, by, zero)
        of = (model.constant(np.array(scale, np.float32)), model.constant(np.array(zero_point, np.int8)))
        made = model.node(
            "QLinearConv", quantized, by, zero, model.constant(stored), *of, by, zero, **_WINDOW
        )
        return model.node("DequantizeLinear", made, by, zero)

    return layer


def _pair(model: Model, x: str) -> str:
    by, zero = model.constant(np.array(_SCALE, np.float32)), model.constant(np.array(0, np.int8))
    return model.node("DequantizeLinear", model.node("QuantizeLinear", x, by, zero), by, zero)


def _weight_of(model: Model, weight: NDArray[np.float32]) -> str:
    codes, scale = _codes(weight)
    of = model.constant(np.array(scale, np.float32)), model.constant(np.array(0, np.int8))
    return model.node("DequantizeLinear", model.constant(codes), *of)


def _paired_matmul(model: Model, x: str, weight: NDArray[np.float32]) -> str:
    return model.node("MatMul", _pair(model, x), _weight_of(model, weight))


def _paired_conv(model: Model, x: str, weight: NDArray[np.float32]) -> str:
    made = model.node("Conv", _pair(model, x), _weight_of(model, weight), **_WINDOW)
    return _pair(model, made)
