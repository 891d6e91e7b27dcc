"""The table of what may leave the Neural Engine: each row has a source, and holds for what it names alone."""

from __future__ import annotations

import re

import pytest

from edgediff import neural_engine_rules as rules
from edgediff.mil_program import Block, Constant, Feature, Function, Named, Operation, TypeOf
from edgediff.neural_engine import leaving, too_large


def half(*shape: int) -> TypeOf:
    return TypeOf("float16", shape)


HALF = half(1, 8, 1, 64)


def program(*operations: Operation) -> Function:
    return Function((Named("x", HALF),), "CoreML7", Block((), (operations[-1].outputs[0].name,), operations))


def op(kind: str, made: TypeOf = HALF, **inputs: str | Constant) -> Operation:
    given = inputs or {"x": "x"}
    return Operation(kind, {name: (value,) for name, value in given.items()}, (Named(f"{kind}_0", made),))


def const(name: str, kind: TypeOf) -> Operation:
    return Operation("const", {}, (Named(name, kind),), {"val": Constant(kind, ())})


def reasons(*operations: Operation) -> list[tuple[int, str, str]]:
    return [(one.count, one.operation, one.source.url) for one in leaving(program(*operations))]


@pytest.mark.parametrize(
    "kind", ["conv", "add", "softmax", "einsum", "concat", "reshape", "layer_norm", "gelu"]
)
def test_what_no_source_names_is_not_listed(kind: str) -> None:
    assert reasons(op(kind)) == []


def test_float32_but_not_its_casts() -> None:
    full = TypeOf("float32", (1, 8, 1, 64))
    url = rules.TYPED_EXECUTION.url
    assert reasons(op("cast", full)) == []
    assert reasons(op("mul", full)) == [(1, "mul", url)]
    assert reasons(const("w", full), op("mul")) == []


ROWS: dict[str, tuple[Operation, Operation, str]] = {
    "integers": (op("cast", TypeOf("int32", (1,))), op("cast"), rules.MATRIX.url),
    "no path": (op("scatter"), op("concat"), rules.MATRIX.url),
    "a cast of weights": (op("constexpr_cast"), op("constexpr_lut_to_dense"), rules.MATRIX.url),
    "loops": (op("while_loop"), op("identity"), rules.MATRIX.url),
    "sines": (op("sin"), op("exp"), rules.MATRIX.url),
    "sorting": (op("topk"), op("maximum"), rules.MATRIX.url),
    "look-ups": (op("gather"), op("split"), rules.WHISPER_PLAN.url),
    "other look-ups": (op("gather_nd"), op("split"), rules.HOLLANCE.url),
    "recurrent": (op("lstm"), op("linear"), rules.RECURRENT.url),
    "axes": (
        op("reshape", half(*(1,) * 6)), op("reshape", half(*(1,) * 5)),
        rules.RANK.url),
    "width": (
        op("reshape", half(1, 8, 1, 16385)), op("reshape", half(1, 8, 1, 16384)),
        rules.DESIGN_RULES.url),
    "height": (
        op("reshape", half(1, 8, 16385, 1)), op("reshape", half(1, 16385, 1, 1)),
        rules.DESIGN_RULES.url),
    "channels": (
        op("reshape", half(1, 65537, 1, 1)), op("reshape", half(1, 65536, 1, 1)),
        rules.DESIGN_RULES.url),
    "kernels": (
        op("conv", x="x", weight=Constant(half(8, 8, 1, 14), ())),
        op("conv", x="x", weight=Constant(half(8, 8, 14, 13), ())),
        rules.DESIGN_RULES.url),
    "upsampling": (
        op("upsample_nearest_neighbor", half(1, 8, 3, 192)),
        op("upsample_nearest_neighbor", half(1, 8, 2, 128)),
        rules.HOLLANCE.url),
    "heads": (op("matmul", x="x", y="x"), op("matmul", x="x", y="w"), rules.STABLE_DIFFUSION.url),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_each_row_names_its_case_and_not_its_neighbour(row: str) -> None:
    named, neighbour, url = ROWS[row]
    weight = const("w", HALF)
    assert (1, named.type, url) in reasons(weight, named)
    assert reasons(weight, neighbour) == []


def test_counts_and_order() -> None:
    sine, look_up = op("sin"), op("gather")
    found = leaving(program(sine, look_up, sine, op("cos")))
    assert [(one.count, one.operation) for one in found] == [(2, "sin"), (1, "cos"), (1, "gather")]


def test_what_is_in_blocks_counts() -> None:
    inner = Block((), ("gather_0",), (op("gather"),))
    outer = Operation("cond", {}, (Named("y", HALF),), blocks=(inner,))
    assert {one.operation for one in leaving(program(outer))} == {"cond", "gather"}


def test_ranges_of_sizes_but_not_a_list_of_them() -> None:
    fixed = Feature("x", "float16", (1, 8))
    several = Feature("x", "float16", (1, 8), shapes=((1, 8), (1, 9)))
    ranged = Feature("x", "float16", (1, 8), ranges=((1, 1), (8, 9)))
    assert leaving(program(op("add")), (fixed, several)) == []
    assert [one.source for one in leaving(program(op("add")), (ranged,))] == [rules.RANGES]


def test_packages_that_are_too_large() -> None:
    assert too_large(1_700_000_000, 850_000_000) is not None
    assert too_large(800_000_000, 400_000_000) is None
    assert too_large(1_950_000_000, 2_600_000_000) is None  # Stable Diffusion XL in 6 bits


def test_every_row_has_a_source_and_a_date() -> None:
    for rule in rules.TABLE:
        assert rule.source.title and rule.source.url.startswith("https://")
        assert re.fullmatch(r"(read )?20\d\d-\d\d(-\d\d)?|undated", rule.source.date)
        assert rule.reason
