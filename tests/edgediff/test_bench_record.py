"""A record goes to JSON and back, and says what is wrong with a text that is none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgediff.bench.record import FORMAT, Record, Samples
from edgediff.bench.schema import FILE, text
from edgediff.errors import InputError
from tests.edgediff.bench_sample import sample


def test_there_and_back() -> None:
    record = sample()
    assert Record.from_json(record.to_json()) == record
    assert Record.from_json(record.to_json(indent=2).encode()) == record


def test_its_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert FILE.read_text(encoding="utf-8") == text()
    schema = json.loads(text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(sample().stored(), schema)
    broken = sample().stored()
    del broken["machine"]["cores"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_percentiles_are_measured_values() -> None:
    values = tuple(float(v) for v in np.random.default_rng(0).permutation(23))
    taken = Samples(values)
    for percent in (0, 10, 50, 75, 90, 99, 100):
        wanted = np.percentile(values, percent, method="inverted_cdf")
        assert taken.percentile(percent) == wanted
    assert taken.median == np.median(values)
    assert (taken.n, taken.min, taken.max) == (23, 0.0, 22.0)
    assert Samples((3.0,)).p99 == 3.0
    assert Samples((3.0,)).spread == 0.0


def _without(name: str) -> dict[str, Any]:
    told = sample().stored()
    del told[name]
    return told


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "format is None"),
        (json.dumps({"format": "edgediff-bench/2"}), "edgediff-bench/2"),
        (json.dumps(_without("machine")), "old.json.machine: it is missing"),
        (json.dumps({**sample().stored(), "made": 3}), "old.json.made: expected a text"),
        (json.dumps({**sample().stored(), "spans": {}}), "old.json.spans: expected a list"),
        (sample().to_json().replace('"n": 3, ', "").replace("0.0002", '"fast"'), "expected a number"),
        (json.dumps({**sample().stored(), "energy": {"joules": True}}), "joules: expected a number"),
    ],
)
def test_what_is_no_record(given: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("/", "[/]")):
        Record.from_json(given, "old.json")


def test_empty_samples_are_refused() -> None:
    told = sample().stored()
    told["components"][0]["seconds"]["values"] = []
    with pytest.raises(InputError, match=r"components\[0\]\.seconds\.values: it is empty"):
        Record.from_json(json.dumps(told))


def test_components_by_name() -> None:
    found = sample().component("denoiser")
    assert found is not None
    assert found.seconds.n == 5
    assert sample().component("control") is None
    assert sample().format == FORMAT
