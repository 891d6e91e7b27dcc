"""Keys and values of the text: made once for each text, kept from call to call, checked."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgediff.bundle import TensorSpec
from edgediff.errors import NumericError
from edgediff.text_projections import TEXT, Cache, projected

ROLE = "text_projections"


class Parts:
    """Gives twice the text as k and its negative as v; counts rows."""

    def __init__(self, dtype: str = "float32") -> None:
        self.memory: dict[str, Any] = {}
        self.rows: list[int] = []
        self._info = SimpleNamespace(inputs=(TensorSpec(TEXT, dtype, ("batch", "tokens", 4)),))

    def graph(self, role: str) -> Any:
        return SimpleNamespace(info=self._info)

    def run(self, role: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        assert role == ROLE
        text = inputs[TEXT]
        assert text.dtype == self._info.inputs[0].dtype
        self.rows.append(len(text))
        return {"k": 2 * text, "v": -text}


def texts(*numbers: float, tokens: int = 3) -> Any:
    return np.stack([np.full((tokens, 4), number, np.float32) for number in numbers])


def test_equal_rows_run_once_and_come_in_order() -> None:
    parts: Any = Parts()
    given = texts(1, 1, 2, 1)
    made = projected(parts, ROLE, given)
    assert parts.rows == [2]
    np.testing.assert_array_equal(made["k"], 2 * given)
    np.testing.assert_array_equal(made["v"], -given)


def test_later_calls_run_what_is_new() -> None:
    parts: Any = Parts("float16")
    projected(parts, ROLE, texts(1, 2))
    made = projected(parts, ROLE, texts(3, 2))
    assert parts.rows == [2, 1]
    assert made["k"][:, 0, 0].tolist() == [6, 4]
    projected(parts, ROLE, texts(3, 2, 1))
    assert parts.rows == [2, 1]
    projected(parts, ROLE, texts(1, tokens=6))  # the same number, another length
    assert parts.rows == [2, 1, 1]


def test_the_least_recently_used_go_first() -> None:
    cache = Cache(rows=2)
    for name in (b"a", b"b"):
        cache.put(name, {"k": np.zeros(1)})
    cache.get(b"a")
    cache.put(b"c", {"k": np.zeros(1)})
    assert [cache.get(name) is None for name in (b"a", b"b", b"c")] == [False, True, False]
    small = Cache(limit=100)
    small.put(b"a", {"k": np.zeros(10), "v": np.zeros(10)})
    assert len(small) == 0
    cache.clear()
    assert len(cache) == 0


def test_more_texts_than_the_cache_holds() -> None:
    parts: Any = Parts()
    given = texts(*range(1, 21))
    np.testing.assert_array_equal(projected(parts, ROLE, given)["k"], 2 * given)
    np.testing.assert_array_equal(projected(parts, ROLE, given)["v"], -given)


def test_numbers_that_are_none_are_refused() -> None:
    parts: Any = Parts()
    with pytest.raises(NumericError, match="text_projections: its output k holds NaN"):
        projected(parts, ROLE, texts(np.nan))
    assert not parts.memory[ROLE]
