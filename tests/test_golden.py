"""The golden files say what the code does, and the tables among them obey their schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff import tables
from edgediff.errors import BundleError
from edgediff.noise import TorchNoise
from edgediff.sampler import Array
from edgediff.schedule import Point
from tests.golden import make

SCHEMA = json.loads((Path(tables.__file__).parent / "table.schema.json").read_text())
FILES = sorted((make.HERE / "tables").glob("*.json"))


def test_every_sampler_has_a_table() -> None:
    assert {f.stem for f in FILES} == {*samplers.names(), *make.EXTRA}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_tables_are_what_samplers_record(file: Path) -> None:
    jsonschema.validate(json.loads(file.read_text()), SCHEMA)
    read, made = tables.load(file), make.recorded()[file.stem]
    assert read._replace(operations=(), start=0) == made._replace(operations=(), start=0)
    assert read.start == pytest.approx(made.start, rel=1e-9)
    assert len(read.operations) == len(made.operations)
    for one, other in zip(read.operations, made.operations, strict=True):
        assert one[0] == other[0]
        for a, b in zip(one[1:], other[1:], strict=True):
            assert np.allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-7, atol=1e-9), (one, other)


class Given:
    """The draws of a golden file."""

    def __init__(self, draws: list[list[float]]) -> None:
        self._draws = iter(draws)

    def draw(self, shape: tuple[int, ...]) -> Array:
        return np.float32(next(self._draws)).reshape(shape)


@pytest.mark.parametrize(
    "row", json.loads((make.HERE / "samplers.json").read_text()), ids=lambda r: r["table"]
)
def test_the_loop_of_the_page_gives_the_numbers(row: dict[str, Any]) -> None:
    """The loop as docs/tables.md states it, written a second time, from the file's own bytes."""
    table = json.loads((make.HERE / row["table"]).read_text())
    r: list[Any] = [np.float32(row["x"])] * table["registers"]
    draws, steps = iter(row["draws"]), []

    def total(terms: list[tuple[int, float]]) -> Any:
        return np.float32(sum((f * r[i].astype(np.float64) for i, f in terms), np.zeros(r[0].shape)))

    for name, *op in table["operations"]:
        if name == "call":
            r[op[0]] = make.network(total(op[2]), Point(op[1], 1.0, 0.0))
        elif name == "sum":
            r[op[0]] = total(op[1])
        elif name == "draw":
            r[op[0]] = np.float32(next(draws))
        elif name == "clip":
            r[op[0]] = np.clip(r[op[1]], -op[2], op[2])
        elif name == "threshold":
            ordered = np.sort(np.abs(r[op[1]]))
            place = op[2] * (len(ordered) - 1)
            low = int(place)
            s = ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
            s = min(max(s, 1.0), max(op[3], 1.0))
            r[op[0]] = np.clip(r[op[1]], -s, s) / np.float32(s)
        else:
            steps.append(r[op[0]])
    assert next(draws, None) is None
    expected = np.float32(row["steps"])
    assert len(steps) == table["steps"]
    assert np.abs(np.stack(steps) - expected).max() < 1e-5 * max(1.0, float(np.abs(expected).max()))


def test_noise_is_the_published_one() -> None:
    rows = json.loads((make.HERE / "noise.json").read_text())
    assert len(rows) == 3 * 20 * 4
    for row, now in zip(rows, make.noise(), strict=True):
        now = json.loads(json.dumps(now))
        if row["noise"] == "numpy":  # its logarithm is the system's
            assert np.allclose(row["first"], now["first"], rtol=1e-6)
        else:
            assert row == now


def test_a_draw_of_zero_coefficient_is_still_made() -> None:
    solver = samplers.find(make.CONFIG, "euler_ancestral")
    from edgediff.schedule import Request

    table = tables.record(solver, solver.schedule(Request(3)))
    assert sum(op[0] == "draw" for op in table.operations) == 3
    noise = TorchNoise(0)
    list(tables.run(table, make.network, np.zeros(make.SHAPE, np.float32), noise))
    other = TorchNoise(0)
    for _ in range(3):
        other.draw(make.SHAPE)
    assert np.array_equal(noise.draw((16,)), other.draw((16,)))


BROKEN: list[dict[str, Any]] = [
    {"format": "other"}, {"version": 2}, {"registers": 0}, {"registers": True}, {"registers": 65},
    {"steps": 2}, {"start": "1"}, {"operations": [["jump", 0]]}, {"operations": [["draw", 9]]},
    {"operations": [["sum", 0, [[0, "1"]]]]}, {"operations": [["draw", -1]]}, {"operations": [["draw"]]},
    {"operations": [["sum", 0, [[True, 1.0]]]]}, {"operations": {}}, {"operations": [[]]},
]  # fmt: skip


# A schema can neither count nor compare.
BEYOND_A_SCHEMA: list[dict[str, Any]] = [{"steps": 2}, {"operations": [["draw", 9]]}]


@pytest.mark.parametrize("change", BROKEN, ids=str)
def test_broken_tables_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    good = {"format": "edgediff-table", "version": 1, "sampler": "x", "steps": 1, "start": 1.0,
            "registers": 1, "operations": [["call", 0, 999, [[0, 1.0]]], ["step", 0, 0]]}  # fmt: skip
    file = tmp_path / "table.json"
    file.write_text(json.dumps(good))
    assert tables.load(file).steps == 1
    file.write_text(json.dumps({**good, **change}))
    with pytest.raises(BundleError, match="no sampler table"):
        tables.load(file)
    if change not in BEYOND_A_SCHEMA:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **change}, SCHEMA)
