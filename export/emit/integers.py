"""How layers are said with integers: what a quantizer decided, as the emitters read it.

Activations are quantized per tensor, weights per output channel or per block of input channels. Jacob et al.
(2018): a real number is ``scale * (code - zero point)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from edgediff.export.emit.graph import Graph, Node, Value

Choice = Literal["float", "int8", "int8-weights", "int4-weights"]
"""What becomes of a layer: ``int8`` computes with 8-bit activations and weights, ``-weights`` stores them."""

LAYERS = ("conv", "downsample", "linear", "embedding")
"""Operations whose weights can be stored as integers; an embedding never computes with them."""


@dataclass(frozen=True, slots=True)
class Coding:
    """How a weight's numbers are stored as integers.

    ``bits`` is 8 or 4. ``block`` weights along the input channels share a scale; 0: a whole output channel
    does. ``offset``: unsigned codes around 128 or 8, as MatMulNBits reads them; otherwise signed and
    symmetric, between -127 and 127.
    """

    bits: int = 8
    block: int = 0
    offset: bool = False


COMPUTED = Coding()
"""The codes of layers that compute with integers, of kernels and of tables whose weights are 8-bit."""
PRODUCT_8, PRODUCT_4, KERNEL_4 = Coding(8, 128, True), Coding(4, 32, True), Coding(4, 32, True)
"""Weights of matrix products in 8 and 4 bits, and of kernels in 4 bits, where activations stay float."""


@dataclass(frozen=True, slots=True)
class Span:
    """What a value was seen to be, once outliers are cut off: real numbers from ``low`` to ``high``."""

    low: float
    high: float

    def unsigned(self) -> tuple[float, int]:
        """Scale and zero point of codes 0 to 255 that hold the span, and zero exactly."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = _scale(high - low, 255)
        return scale, min(255, max(0, round(-low / scale)))

    def signed(self) -> tuple[float, int]:
        """Scale of codes -127 to 127 around zero."""
        return _scale(max(abs(self.low), abs(self.high)), 127), 0


def _scale(width: float, codes: int) -> float:
    """What was zero all along gets a scale of ordinary size: a bias is counted in it, within 32 bits."""
    return (width if width > 1e-5 else 1.0) / codes


@dataclass(frozen=True, slots=True)
class Quantization:
    """What is decided for one graph.

    ``choices`` is by the scope of a layer's node; what is not listed stays float. ``spans`` is by the id of a
    value: the input of each layer that computes in int8, and the output of each such convolution.
    ``vnni`` names the convolutions that are faster with symmetric weights (vector instructions) than through
    the matrix unit, on processors that have one.
    """

    choices: Mapping[str, Choice] = field(default_factory=dict)
    spans: Mapping[int, Span] = field(default_factory=dict)
    vnni: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class IntegerForm:
    """How a profile computes in int8.

    ``signed``: activations are int8 around zero (OpenVINO, Arm64); otherwise uint8 with a zero point.
    ``direct``: ONNX Runtime's own operators (QLinearConv, MatMulIntegerToFloat, MatMulNBits); otherwise pairs
    of QuantizeLinear and DequantizeLinear. ``narrow``: weights of 7 bits, for x86 processors whose 8-bit
    products saturate (no VNNI). ``computes`` and ``stores`` say whether the profile takes layers that
    compute with integers, and weights that are integers, at all. ``closed``: a convolution's result is
    quantized too, without which ONNX Runtime computes it in float.
    """

    signed: bool = True
    direct: bool = False
    narrow: bool = False
    computes: bool = True
    stores: bool = True
    closed: bool = True


BLOCKS = (128, 64, 32, 16)  # what MatMulNBits takes


def coding_of(node: Node, choice: Choice) -> Coding | None:
    """How the weight of a layer is stored; None where it stays float.

    Where the input channels are no multiple of a coding's block, the next smaller block that divides them is
    taken, and 8 bits and whole output channels if none does. Of a product those are one block: ONNX Runtime
    would compute a product with plain codes per channel in integers, though its activations are float.
    """
    if choice == "float" or node.op not in LAYERS:
        return None
    if choice == "int8" or node.op == "embedding":
        return COMPUTED
    narrow = choice == "int4-weights"
    channels = node.inputs[0].channels
    if node.op == "linear":
        return _dividing(PRODUCT_4 if narrow else PRODUCT_8, channels) or replace(PRODUCT_8, block=channels)
    return (_dividing(KERNEL_4, channels) or COMPUTED) if narrow else COMPUTED


def _dividing(coding: Coding, channels: int) -> Coding | None:
    blocks = (block for block in BLOCKS if block <= coding.block and channels % block == 0)
    block = next(blocks, None)
    return None if block is None else replace(coding, block=block)


def computes(node: Node, choices: Mapping[str, Choice]) -> bool:
    """Whether a node is a layer that multiplies integers; a table never does."""
    return node.op in LAYERS and node.op != "embedding" and choices.get(node.scope) == "int8"


def observed(graph: Graph, choices: Mapping[str, Choice]) -> tuple[Value, ...]:
    """The values whose spans ``int8`` layers need: their inputs, and what convolutions make; each once."""
    found: dict[int, Value] = {}
    for node in graph.nodes:
        if computes(node, choices):
            values = node.inputs if node.op == "linear" else (*node.inputs, node.output)
            found |= {value.id: value for value in values if value.id not in found}
    return tuple(found.values())
