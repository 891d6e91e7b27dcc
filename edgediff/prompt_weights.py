"""Attention weights in a prompt, as AUTOMATIC1111's web interface documents them.

``(text)`` is weighed by 1.1, ``[text]`` by 1 / 1.1 and ``(text:1.3)`` by 1.3; nested weights multiply. A
backslash before a bracket or a backslash makes it text. ``BREAK`` as a word of its own starts a new chunk.
Whatever else that interface knows (``<lora:...>``, ``[from:to:when]``, ``[a|b]``) is text here.
"""

from __future__ import annotations

import re
from typing import Final

from edgediff.errors import InputError

PAREN: Final = 1.1
LIMIT: Final = 10.0
# An empty piece: what follows it starts a new chunk. No other piece is empty.
BREAK: Final = ("", 1.0)

# Possessive, so that a long run of spaces or digits is passed over once.
_MARK = re.compile(
    r"\\(?P<escaped>[()\[\]\\])"
    r"|(?P<open>[(\[])"
    r"|(?::\s*+(?P<weight>[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++))\s*+)?(?P<close>\))"
    r"|(?P<square>\])"
    r"|\bBREAK\b"
)


def parse(text: str, name: str = "prompt") -> list[tuple[str, float]]:
    """Return the pieces of ``text`` with their weights; neighbours of equal weight are one piece.

    An opening bracket that is never closed holds to the end; a closing one that closes nothing is text, and
    so is a backslash before anything but a bracket or a backslash.

    Raises:
        InputError: a weight is not from -10 to 10.
    """
    marks = list(_MARK.finditer(text))
    factors = _factors(marks)
    # Only brackets of one shape nest in each other: "(a [b) c]" holds b in both.
    rounds, squares = [1.0], [1.0]
    pieces: list[tuple[list[str], float]] = []

    def add(words: str) -> None:
        weight = rounds[-1] * squares[-1]
        if not words:
            return
        if not -LIMIT <= weight <= LIMIT:
            raise InputError(
                f"{name}: the weight of {words!r:.40} is {weight:g}; weights are from -{LIMIT:g} to "
                f"{LIMIT:g}, nested ones multiplied. Lower it."
            )
        if pieces and pieces[-1][0] and pieces[-1][1] == weight:
            pieces[-1][0].append(words)
        else:
            pieces.append(([words], weight))

    at = 0
    for i, mark in enumerate(marks):
        add(text[at : mark.start()])
        at = mark.end()
        if mark["escaped"]:
            add(mark["escaped"])
        elif mark["open"]:
            stack = rounds if mark["open"] == "(" else squares
            stack.append(stack[-1] * factors[i])
        elif mark["close"] or mark["square"]:
            if i in factors:
                (rounds if mark["close"] else squares).pop()
            else:
                add(mark.group())
        else:
            pieces.append(([], 1.0))
    add(text[at:])
    return [("".join(words), weight) for words, weight in pieces]


def _factors(marks: list[re.Match[str]]) -> dict[int, float]:
    """Return what each bracket that counts multiplies by, by its place in ``marks``: a weight stands at the
    closing bracket and is needed at the opening one."""
    factors: dict[int, float] = {}
    rounds: list[int] = []
    squares: list[int] = []
    for i, mark in enumerate(marks):
        if mark["open"] == "(":
            rounds.append(i)
            factors[i] = PAREN
        elif mark["open"]:
            squares.append(i)
            factors[i] = 1 / PAREN
        elif mark["close"] and rounds:
            opened = rounds.pop()
            factors[i] = factors[opened] = PAREN if mark["weight"] is None else float(mark["weight"])
        elif mark["square"] and squares:
            factors[i] = factors[squares.pop()]
    return factors
