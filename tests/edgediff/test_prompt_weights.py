"""Attention weights: the documented examples, what counts as text, and inputs that are only brackets."""

from __future__ import annotations

import random

import pytest

from edgediff.errors import InputError
from edgediff.prompt_weights import BREAK, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0), ("house", 1.5730000000000004), (" ", 1.1), ("on", 1.0), (" a ", 1.1),
                ("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641000000000006), (".", 1.1),
            ],
        ),
    ],
)  # fmt: skip
def test_the_documented_examples(text: str, expected: list[tuple[str, float]]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("()", []),
        ("((((", []),
        ("))", [("))", 1.0)]),
        ("a] b)", [("a] b)", 1.0)]),
        ("a:1.3) b", [("a:1.3) b", 1.0)]),
        ("[[a]", [("a", 1 / 1.1 * (1 / 1.1))]),
        ("[a:1.3]", [("a:1.3", 1 / 1.1)]),
        ("[cat|dog]", [("cat|dog", 1 / 1.1)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 1 / 1.1)]),
        ("(a:2)(b:2)", [("ab", 2.0)]),
        ("((a:2):3)", [("a", 6.0)]),
        ("(a: 2 )", [("a", 2.0)]),
        ("(a:.5)", [("a", 0.5)]),
        ("(a:2.)", [("a", 2.0)]),
        ("(a:-1)(b:+1)", [("a", -1.0), ("b", 1.0)]),
        ("(a:0)", [("a", 0.0)]),
        ("(a:b:2)", [("a:b", 2.0)]),
        ("(a:x)", [("a:x", 1.1)]),
        ("(a:nan)", [("a:nan", 1.1)]),
        ("(a:1e3)", [("a:1e3", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:٢)", [("a:٢", 1.1)]),
        (r"\\(a)", [("\\", 1.0), ("a", 1.1)]),
        (r"C:\path\[x", [(r"C:\path[x", 1.0)]),
        ("a\\", [("a\\", 1.0)]),
        (r"(a\):2)", [("a)", 2.0)]),
        ("<lora:../../x:0.8>", [("<lora:../../x:0.8>", 1.0)]),
    ],
)
def test_what_counts(text: str, expected: list[tuple[str, float]]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a BREAK b", [("a ", 1.0), BREAK, (" b", 1.0)]),
        ("BREAK", [BREAK]),
        ("a,BREAK\nBREAK, b", [("a,", 1.0), BREAK, ("\n", 1.0), BREAK, (", b", 1.0)]),
        ("(a BREAK b:2)", [("a ", 2.0), BREAK, (" b", 2.0)]),
        ("(BREAK:-1)", [BREAK]),
        ("break Break BREAKS OUTBREAK _BREAK", [("break Break BREAKS OUTBREAK _BREAK", 1.0)]),
    ],
)
def test_break(text: str, expected: list[tuple[str, float]]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text", ["(a:10.01)", "(a:-11)", "((a:4):4)", "(" * 25 + "a", f"(a:{'9' * 4000})", "([" * 8000 + "a"]
)
def test_weights_out_of_range(text: str) -> None:
    with pytest.raises(
        InputError, match=r"negative_prompt: the weight of 'a' is .* from -10 to 10"
    ) as caught:
        parse(text, "negative_prompt")
    assert len(str(caught.value)) < 200


def test_the_range_holds_for_products() -> None:
    assert parse("((a:10):-1)") == [("a", -10.0)]
    assert parse("((a:0.1):20)") == [("a", 2.0)]


def test_text_without_marks_is_untouched() -> None:
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choices("ab é日:.,\n<>|{}\\1", k=draw.randrange(1, 30))).replace("\\\\", "\\")
        assert parse(text) == [(text, 1.0)], repr(text)


def test_escaping_everything_gives_the_text_back() -> None:
    draw = random.Random(1)
    for _ in range(200):
        text = "".join(draw.choices("ab()[]\\:1 ", k=draw.randrange(1, 30)))
        escaped = "".join("\\" + c if c in "()[]\\" else c for c in text)
        assert parse(escaped) == [(text, 1.0)], repr(text)
