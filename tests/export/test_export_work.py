"""The terms of a network's work: what they come to at any size, and that every bundle gets them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgediff.bundle import TensorSpec
from edgediff.export.emit.flops import flops
from edgediff.export.emit.graph import Kind
from edgediff.export.emit.ops import Ops
from edgediff.export.emit.reduce import parse, reduced
from edgediff.export.emit.work import Formula, NotAFormula, work_terms
from edgediff.export.networks import unet2d_condition
from edgediff.work import Term
from edgediff.work import flops as evaluated

UNET: dict[str, Any] = {
    "block_out_channels": [32, 64, 64], "cross_attention_dim": 24, "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
SPECS = (
    TensorSpec("sample", "float32", ("batch_size", 4, "height", "width")),
    TensorSpec("timestep", "float32", ()),
    TensorSpec("encoder_hidden_states", "float32", ("batch_size", "sequence_length", 24)),
)


def terms_of(graph: Any) -> list[Term]:
    """Return terms as the manifest's reader makes them."""
    return [
        Term(each["class"], each["flops"], tuple((per["dim"], per["over"]) for per in each["per"]))
        for each in work_terms(graph)
    ]


@pytest.mark.parametrize("attention", [None, "tiles:2@1", "shifted:3@1+pooled:2@2", "strided:2@1,2"])
@pytest.mark.parametrize("size", [(16, 16), (17, 9), (30, 64)])
def test_they_come_to_what_the_pass_counts(attention: str | None, size: tuple[int, int]) -> None:
    graph = unet2d_condition.record(unet2d_condition.configure(UNET, "unet"))
    graph = graph if attention is None else reduced(graph, parse(attention))
    shapes = {"sample": (3, 4, *size), "timestep": (), "encoder_hidden_states": (3, 7, 24)}
    wanted = flops(graph, {"sample": size, "encoder_hidden_states": (7,)}, batch=3)
    found = evaluated(terms_of(graph), SPECS, shapes)
    assert found is not None
    assert {**found, "total": sum(found.values())} == wanted


def test_a_single_layer() -> None:
    ops = Ops("net")
    x = ops.input("sample", Kind.IMAGE, 5, "height", "width")
    ops.output("out", ops.conv(x, "conv", 7, 3), "height", "width")
    assert work_terms(ops.graph()) == [
        {
            "class": "conv", "flops": 2 * 9 * 5 * 7,
            "per": [{"dim": "height", "over": 1}, {"dim": "width", "over": 1}],
        }
    ]  # fmt: skip


def test_what_is_unknown() -> None:
    term = Term("conv", 10, (("height", 2),))
    assert term.at({"height": 5}) == 30
    assert evaluated([], SPECS, {}) is None
    assert evaluated([term], SPECS, {"timestep": ()}) is None
    assert evaluated([Term("linear", 10, ())], SPECS, {}) == {"conv": 0, "linear": 10, "attention": 0}


def test_formulae() -> None:
    height = Formula.of("height")
    assert (height + 1) // 2 == Formula(1, (("height", 2),))
    assert math.ceil(((height + 1) // 2) / 3) == Formula(1, (("height", 6),))
    assert (2 * height + 1) // 2 == height
    for impossible in (lambda: height + 2, lambda: (3 * height) // 2, lambda: (height * height) // 2):
        with pytest.raises(NotAFormula):
            impossible()
