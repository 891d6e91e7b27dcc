"""Spans, memory and energy: what is told of a process while it works."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgediff.bench import doubts, drawing, energy, host, resident
from edgediff.bench.record import Samples
from edgediff.bench.watching import Watching
from edgediff.pipeline import Pipeline
from tests.edgediff.bench_sample import sample


def test_spans_lie_inside_each_other() -> None:
    epoch = time.perf_counter()
    watching = Watching(epoch, sampled=False)
    with watching.stage("outer"), watching.stage("inner"):
        pass
    told = watching.told()
    (inner, outer) = told["spans"]
    assert (inner[0], outer[0]) == ("inner", "outer")
    assert outer[2] <= inner[2]
    assert inner[2] + inner[3] <= outer[2] + outer[3] <= time.perf_counter() - epoch
    assert told["moments"] == []


@pytest.mark.skipif(resident.now() is None, reason="the system does not tell a process's memory")
def test_memory_is_seen_while_it_is_there() -> None:
    watching = Watching(time.perf_counter())
    with watching.stage("large"):
        large = np.ones(12 << 20)  # 96 MiB
        time.sleep(4 * watching.interval)
    size = large.nbytes
    del large
    with watching.stage("after"):
        time.sleep(4 * watching.interval)
    watching.stop()
    told = watching.told()
    assert told["peaks"]["large"] - told["peaks"]["after"] > 0.8 * size
    assert [at for at, _, _ in told["moments"]] == sorted(at for at, _, _ in told["moments"])


def test_peaks_between_spans_are_exact() -> None:
    watching = Watching(time.perf_counter(), sampled=False)
    with watching.exact_peaks() as peak:
        if not peak.resets:
            pytest.skip("this system does not let a process reset its peak")
        with watching.stage("large"):
            size = np.ones(8 << 20).nbytes  # 64 MiB, gone before the span ends
        with watching.stage("small"):
            pass
    assert watching.peaks["large"] - watching.peaks["small"] > 0.8 * size
    assert peak.whole is not None
    assert peak.whole >= watching.peaks["large"]


def test_a_picture_is_the_sum_of_its_parts() -> None:
    watching = Watching(time.perf_counter(), sampled=False)
    with Pipeline() as pipe:
        watching.over(pipe._parts)
        order = {"prompt": "a red circle", "arguments": {"seed": 0, "num_inference_steps": 3}}
        asked = drawing.asked_of(pipe, order)
        drawing.short(pipe, asked, watching)
        told = drawing.drawn(pipe, asked, watching)
        again = drawing.drawn(pipe, asked, watching)
        assert drawing.tokenized(pipe, asked) is not None
    for each in (told, again):  # the second one encodes its prompt as well
        assert [role for role, _ in each["texts"]] == ["text_encoder"]
    assert len(told["steps"]) == 3
    assert all(0 < step["roles"]["denoiser"] <= step["took"] for step in told["steps"])
    assert [role for role, _ in told["decoders"]] == ["decoder"]
    inside = sum(t for _, t in told["texts"] + told["decoders"]) + told["post"]
    inside += sum(step["took"] for step in told["steps"])
    assert 0 < inside <= told["picture"]
    assert {name for name, *_ in watching.spans} >= {
        "load denoiser", "verify decoder", "picture", "prepare", "step 1", "step 3", "decoder", "post",
    }  # fmt: skip
    assert [role for role, *_ in told["passes"] if role == "denoiser"] == ["denoiser"] * 3


def test_graphs_that_are_loaded_again_count_apart() -> None:
    watching = Watching(time.perf_counter(), sampled=False)
    with Pipeline() as pipe:
        watching.over(pipe._parts)
        asked = drawing.asked_of(pipe, {"prompt": "a red circle", "arguments": {"seed": 0}})
        cold = drawing.drawn(pipe, asked, watching)
        warm = drawing.drawn(pipe, asked, watching)
    assert warm["loads"] == 0
    assert cold["loads"] > 0
    assert set(watching.infos) == {"text_encoder", "denoiser", "decoder"}


def test_energy(tmp_path: Path) -> None:
    def write(name: str, used: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "energy_uj").write_text(f"{used}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000000\n")

    assert "has no counter" in str(energy.read(tmp_path))
    write("intel-rapl:0", 900_000)
    write("intel-rapl:1", 100)
    write("intel-rapl:0:0", 5)  # a part of the first one, which counts it already
    before = energy.read(tmp_path)
    write("intel-rapl:0", 400_000)  # which began again
    write("intel-rapl:1", 1_000_100 - 900_000)
    told = energy.between(before, energy.read(tmp_path), 4, 2.0)
    assert told["joules"] == pytest.approx(0.5 + 0.1)
    assert (told["pictures"], told["seconds"], told["reason"]) == (4, 2.0, None)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    none = energy.between(before, energy.read(tmp_path), 4, 2.0)
    assert none["joules"] is None
    assert "energy_uj cannot be read" in none["reason"]


def test_the_machine() -> None:
    card = host.card(0.5, None)
    assert card.cores >= 1
    assert card.packages["numpy"] == np.__version__
    assert (card.load_before, card.load_after) == (0.5, None)
    assert card.physical_cores is None or card.physical_cores >= 1


def test_doubts() -> None:
    record = sample()
    calm = replace(record.machine, load_before=0.1, cores=2, governor=None)
    part = replace(record.components[-1], share=1.0, seconds=Samples((1.0, 1.01, 1.0, 1.02, 1.0)), work=None)
    assert list(doubts.found(calm, [part])) == []
    busy = replace(calm, load_before=1.5, governor="powersave")
    wide = replace(part, seconds=Samples((1.0, 2.0, 1.0, 2.0)))
    work = record.components[2].work
    assert work is not None
    fast = replace(part, name="decoder", work=replace(work, limit_percent=130.0))
    told = list(doubts.found(busy, [wide, fast]))
    for said in ("a load of 1.5 on 2", "powersave", "picture: the middle half", "4 pictures", "(130 %)"):
        assert sum(said in line for line in told) == 1, (said, told)
    assert len(told) == 5
    small = replace(wide, name="sampler", share=0.01)
    assert list(doubts.found(calm, [small])) == []
