"""What calibration asks of a value while a graph runs: its smallest and largest number, and a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper

from edgediff.export.emit.graph import Graph, Port, Value
from edgediff.export.emit.onnx_builder import Builder

# A sample takes every n-th number, at least SAMPLE of a value that has as many (up to 30 times that). n is 1
# more than a multiple of 30: channels and extents are mostly products of 2, 3 and 5, and a stride that shares
# a factor with them would see some channels or columns only.
SAMPLE, _FACTORS = 4096, 30


def holding(graph: Graph, values: Sequence[Value]) -> Graph:
    """The graph for a plan that must not absorb ``values``: as far as the plan can see, they leave it."""
    kept = tuple(Port(f"held.{value.id}", value, ()) for value in values)
    return replace(graph, outputs=graph.outputs + kept) if kept else graph


def tap(b: Builder, value: Value) -> tuple[str, str, str]:
    """Add the outputs ``tap.<id>.low``, ``.high`` (scalars) and ``.sample`` (one axis); their names."""
    name = f"tap.{value.id}"
    b.enter(name)
    b.half = False
    tensor = b.read(value)
    low = _output(b, f"{name}.low", "ReduceMin", tensor, keepdims=0)
    high = _output(b, f"{name}.high", "ReduceMax", tensor, keepdims=0)
    flat = b.node("Reshape", tensor, b.integers(-1))
    period = _integer(b, _FACTORS)
    few = b.node("Div", b.node("Size", tensor), _integer(b, SAMPLE * _FACTORS))
    stride = b.node("Add", b.node("Mul", few, period), _integer(b, 1))
    strides = b.node("Reshape", stride, b.integers(1))
    bounds = (b.integers(0), b.integers(2**63 - 1), b.integers(0))
    return low, high, _output(b, f"{name}.sample", "Slice", flat, *bounds, strides)


def _integer(b: Builder, number: int) -> str:
    return b.constant(np.array(number, np.int64))


def _output(b: Builder, public: str, kind: str, *inputs: str, **attributes: Any) -> str:
    b.nodes.append(helper.make_node(kind, inputs, [public], name=f"/{public}/{kind}", **attributes))
    return public
