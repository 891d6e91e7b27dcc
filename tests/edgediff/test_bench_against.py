"""A record against an older one: noise is no regression, a regression is no noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgediff.bench.against import compared
from edgediff.bench.against_ratio import ratio
from edgediff.bench.record import Record, Samples
from edgediff.errors import InputError
from tests.edgediff.bench_sample import sample


def steady(factor: float = 1.0, noise: float = 0.01, seed: int = 0, count: int = 20) -> Record:
    """A record whose times vary by ``noise``, all of them ``factor`` times the sample's."""
    rng = np.random.default_rng(seed)
    base = sample(warnings=())

    def times(of: Samples) -> Samples:
        return Samples(tuple(of.median * factor * (1 + noise * rng.standard_normal(count))))

    components = tuple(replace(c, seconds=times(c.seconds)) for c in base.components)
    cold = tuple(replace(c, stages={n: times(s) for n, s in c.stages.items()}) for c in base.cold)
    return replace(base, components=components, cold=cold)


def verdicts(old: Record, new: Record, threshold: float = 10.0) -> dict[str, str]:
    """Return the verdict on each time of a component that counts."""
    rows = compared(old, new, threshold).rows
    return {r.name: r.verdict for r in rows if r.unit == "seconds" and r.verdict != "too small to count"}


def test_the_same_is_the_same() -> None:
    found = compared(steady(seed=1), steady(seed=2))
    assert not found.slower
    assert {r.verdict for r in found.rows} == {"same", "too small to count"}


@pytest.mark.parametrize(
    "factor, verdict", [(1.2, "slower"), (0.8, "faster"), (1.05, "same"), (1.1, "undecided")]
)
def test_what_changed_is_told(factor: float, verdict: str) -> None:
    found = verdicts(steady(seed=1, noise=0.02), steady(factor, noise=0.02, seed=2))
    assert set(found.values()) == {verdict} if verdict != "undecided" else verdict in found.values()
    assert len(found) >= 6


def test_noise_is_no_regression() -> None:
    """Ratios of noisy medians exceed the threshold by chance; their intervals do not lie over it."""
    wrong, beyond = 0, 0
    for seed in range(40):
        rows = compared(
            steady(noise=0.25, seed=seed, count=7), steady(noise=0.25, seed=99 + seed, count=7)
        ).rows
        counted = [r for r in rows if r.unit == "seconds" and r.verdict != "too small to count"]
        wrong += sum(r.worse for r in counted)
        beyond += sum(r.ratio.value > 1.1 for r in counted)
    assert beyond > 30  # by the ratio alone each of these would have been a false alarm
    assert wrong <= 0.1 * beyond


def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        old, new = (m * rng.lognormal(0, 0.1, 25) for m in (1.0, 1.3))
        found = ratio(list(old), list(new))
        hits += found.low <= 1.3 <= found.high
    assert hits / 200 > 0.9


def test_ratios_of_few_samples_have_no_interval() -> None:
    assert ratio([1.0, 1.0], [2.0] * 9) == (2.0, 2.0, 2.0, False)
    assert ratio([1.0] * 5, [2.0] * 5) == (2.0, 2.0, 2.0, True)
    few = steady(count=2)
    assert set(verdicts(few, steady(3.0, count=2)).values()) == {"undecided"}
    for old, new in (([], [1.0]), ([1.0], []), ([0.0], [1.0])):
        with pytest.raises(ValueError, match="above 0"):
            ratio(old, new)


def test_memory_counts_by_itself() -> None:
    old = steady()
    new = replace(old, memory=replace(old.memory, peak_bytes=95_000_000))
    found = compared(old, new)
    assert found.slower
    assert [r.name for r in found.rows if r.worse] == ["peak memory, warm"]
    assert "larger" in found.table()
    assert not compared(old, new, threshold=20).slower


def test_small_shares_do_not_count() -> None:
    old = steady()
    slow = tuple(
        replace(c, seconds=Samples(tuple(5 * v for v in c.seconds.values))) if c.name == "tokenize" else c
        for c in old.components
    )
    found = compared(old, replace(old, components=slow))
    assert not found.slower
    assert next(r for r in found.rows if r.name == "tokenize").verdict == "too small to count"
    grown = tuple(replace(c, share=0.05) if c.name == "tokenize" else c for c in slow)
    assert compared(old, replace(old, components=grown)).slower


@pytest.mark.parametrize("what, change", [
    ("processor", lambda r: replace(r, machine=replace(r.machine, processor="another"))),
    ("cores", lambda r: replace(r, machine=replace(r.machine, cores=64))),
    ("bundle", lambda r: replace(r, model=replace(r.model, digest="cd" * 32))),
    ("steps", lambda r: replace(r, asked=replace(r.asked, steps=8))),
    ("precision", lambda r: replace(r, asked=replace(r.asked, precision="bf16"))),
    ("options", lambda r: replace(r, asked=replace(r.asked, options={"tile": 4}))),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(what: str, change: Callable[[Record], Record]) -> None:
    old, new = steady(), change(steady())
    with pytest.raises(InputError, match=f"{what}.* then, .* now.*--force"):
        compared(old, new)
    assert any(note.startswith(f"NOT THE SAME: {what}") for note in compared(old, new, force=True).notes)


def test_bad_thresholds_and_nothing_in_common() -> None:
    for threshold in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="per cent, 0 or more"):
            compared(steady(), steady(), threshold)
    empty = replace(steady(), components=(), cold=(), memory=replace(steady().memory, peak_bytes=None))
    with pytest.raises(InputError, match="no figure in common"):
        compared(steady(), empty)


def test_notes_say_what_else_changed() -> None:
    old = steady()
    new = replace(
        old,
        machine=replace(old.machine, packages={"onnxruntime": "1.32.0", "numpy": "2.4.0"}),
        limits=tuple(replace(each, per_second=each.per_second / 2) for each in old.limits),
        components=old.components[:-1],
        warnings=("busy",),
    )
    told = compared(old, new).table()
    assert "onnxruntime was 1.31.1 and is 1.32.0" in told
    assert "its ceiling of gemm in fp32 is 0.50 of what it was" in told
    assert "only in the old record: picture; only in the new one: none" in told
    assert "new record: busy" in told


def test_the_json_has_what_the_table_has() -> None:
    found = compared(steady(), steady(1.5))
    told = json.loads(json.dumps(found.record()))
    assert told["slower"] is True
    assert told["threshold_percent"] == 10
    assert [row["name"] for row in told["rows"]] == [row.name for row in found.rows]
    assert told["rule"] in found.table()
    for row in told["rows"]:
        assert row["low"] <= row["ratio"] <= row["high"]
        assert row["name"] in found.table()
