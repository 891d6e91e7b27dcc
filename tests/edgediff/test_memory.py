"""A budget for memory: amounts, plans, refusals, and pictures that are the same whatever was allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff import tasks
from edgediff.bundle import Bundle
from edgediff.errors import InputError, ResourceError, UnsupportedError
from edgediff.machine import peak_rss
from edgediff.memory import needs
from edgediff.memory.amount import parse, shown
from edgediff.memory.budget import Budget, MemoryExceeded
from edgediff.memory.cut import Cut
from edgediff.memory.plan import Stage, TooLittle, decoding, staged
from edgediff.pipeline import EMBEDDED

PROMPT = "a red circle on a white background"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ALONE = "EDGEDIFF_TEST_ALONE"


def in_a_process_of_its_own(test: str) -> bool:
    """Run ``test`` of this file in a new process, whose peak is not that of the tests before; False there."""
    if os.environ.get(ALONE):
        return False
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::{test}"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, capture_output=True, text=True, env={**kept, ALONE: "1"})
    assert done.returncode == 0, done.stdout + done.stderr  # 5 if there is no such test
    return True


@pytest.mark.parametrize(
    ("text", "count"),
    [("1.5GB", 1_500_000_000), ("800MB", 800_000_000), ("1GiB", 1 << 30), ("2 mib", 2 << 20), ("7", 7),
     (9, 9), ("0.25kB", 250), (" 1TB ", 10**12)],
)  # fmt: skip
def test_amounts(text: str | int, count: int) -> None:
    assert parse(text) == count


@pytest.mark.parametrize(
    "text",
    ["", "GB", "-1GB", "1.5 parsecs", "1e9", "nan", "0", "0.1B", 0, -5, True, None, 1.5, "9" * 40, "1GBB"],
)
def test_what_is_no_amount_is_refused(text: Any) -> None:
    with pytest.raises(InputError, match="no amount of memory"):
        parse(text)


def test_amounts_are_shown_rounded_up() -> None:
    assert shown(1_230_000_001) == "1.24 GB"
    assert shown(86_000_001) == "87 MB"


def _network(role: str = "denoiser", values: int = 10 << 20) -> needs.Network:
    bundle = Bundle.open(EMBEDDED)
    return needs.Network(role, values, needs.reader(bundle.path / bundle.graph(role, "onnxruntime").file))


def test_stretches_hold_each_node_and_each_weight_once_and_feed_each_other() -> None:
    bundle = Bundle.open(EMBEDDED)
    for role in ("text_encoder", "denoiser", "decoder"):
        data = (bundle.path / bundle.graph(role, "onnxruntime").file).read_bytes()
        whole, cut = Cut(data), Cut(data, 200_000)
        assert len(whole.stretches) == 1
        assert len(cut.stretches) > 2
        assert {n for s in cut.stretches for n in s.nodes} == set(whole.stretches[0].nodes)
        assert {n for s in cut.stretches for n in s.weights} == set(whole.stretches[0].weights)
        known = {spec.name for spec in cut.ports()[0]}
        for stretch in cut.stretches:
            assert known.issuperset(stretch.reads)
            known.update(stretch.makes)
        assert [spec.name for spec in cut.ports()[1]] == list(whole.stretches[0].makes)


def test_less_room_means_fewer_stretches_that_stay_and_never_more_than_the_room() -> None:
    network = _network()
    stays = sum(map(needs.stays, network.stretches(0)))
    base = 50 << 20
    streamed = []
    for room in range(base + 4 * stays + network.values, base, -stays // 4):
        try:
            loading, peak = staged(Stage("denoising", (network,)), base, room)
        except TooLittle as error:
            assert error.least > room
            break
        assert peak <= room
        made = loading["denoiser"]
        streamed.append(0 if made.resident is None else len(network.stretches(made.stretch)) - made.resident)
    assert streamed[0] == 0


def test_a_decoder_that_does_not_fit_works_on_tiles() -> None:
    factors, size = {"height": 8, "width": 8}, {"height": 1024, "width": 1024}

    def decoder(height: int, width: int) -> needs.Network:
        return _network("decoder", values=height * width * 1000)

    base = 100 << 20
    *_, none = decoding(decoder, size, factors, base, 2 << 30, "auto")
    _, peak, some = decoding(decoder, size, factors, base, 500 << 20, "auto")
    assert none is None
    assert some is not None
    assert 256 <= some < 1024
    assert peak <= 500 << 20
    with pytest.raises(TooLittle):
        decoding(decoder, size, factors, base, 500 << 20, None)  # tiles were ruled out
    with pytest.raises(TooLittle):
        decoding(decoder, size, factors, base, 150 << 20, "auto")


def test_a_budget_is_for_the_cpu_alone() -> None:
    for asked in (
        {"device": "openvino"},
        {"device": "denoiser=cuda"},
        {"runtime": "null"},
        {"precision": "bf16"},
    ):
        with pytest.raises(UnsupportedError, match="memory"):
            edgediff.load(memory="1GB", **asked)
    with pytest.raises(InputError, match="no amount"):
        edgediff.load(memory="plenty")


@linux
def test_too_little_is_refused_before_anything_is_loaded() -> None:
    if in_a_process_of_its_own("test_too_little_is_refused_before_anything_is_loaded"):
        return
    with edgediff.load(memory="1MB") as pipe:
        with pytest.raises(ResourceError, match="allow more, or draw in a process of its own"):
            pipe(PROMPT, seed=0)
        assert not pipe.infos()
    taken = peak_rss()
    assert taken is not None
    with edgediff.load(memory=taken + (1 << 20)) as pipe:
        with pytest.raises(ResourceError, match="at the least; allow that much, or ask for a smaller size"):
            pipe(PROMPT, seed=0)
        assert not pipe.infos()


@linux
def test_what_is_too_little_by_the_message_is_enough_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if in_a_process_of_its_own("test_what_is_too_little_by_the_message_is_enough_by_it"):
        return
    bundle = Bundle.open(EMBEDDED)
    asked = tasks.checked(bundle, PROMPT, seed=0)
    budget = Budget(1 << 40, bundle)
    budget.prepare(asked)
    taken = peak_rss()
    assert taken is not None
    budget.most = taken + (1 << 20)
    monkeypatch.setattr("edgediff.memory.budget.shown", str)
    with pytest.raises(ResourceError) as caught:
        budget.prepare(asked)
    budget.most = round(float(str(caught.value).split(" needs ")[1].split()[0])) + (1 << 20)
    assert budget.prepare(asked).peak <= budget.most


@linux
def test_the_picture_is_the_same_whatever_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    with edgediff.load(device="cpu") as pipe:
        whole = pipe(PROMPT, seed=3, output_type="np").images
    with edgediff.load(memory="8GB") as pipe:
        budget = pipe._parts.budget
        assert budget is not None
        budgeted = pipe(PROMPT, seed=3, output_type="np").images
        assert set(pipe._parts._graphs) == {"text_encoder", "denoiser", "decoder"}
        monkeypatch.setattr(budget, "_kept", lambda *_: None)  # as if they did not fit beside each other
        again = pipe(PROMPT, seed=3, output_type="np").images
        assert list(pipe._parts._graphs) == ["decoder"]
        assert set(pipe.infos()) == {"text_encoder", "denoiser", "decoder"}
        told = pipe.memory
    np.testing.assert_array_equal(whole, budgeted)
    np.testing.assert_array_equal(whole, again)
    assert told is not None
    assert 0 < told["peak"] <= told["budget"]


@linux
def test_a_budget_that_was_exceeded_is_said() -> None:
    bundle = Bundle.open(EMBEDDED)
    budget = Budget(1 << 20, bundle)
    with pytest.warns(MemoryExceeded, match="the result is whole"):
        budget.check()


@linux
def test_the_command_holds_its_budget_and_refuses_what_it_cannot(tmp_path: Path) -> None:
    def run(amount: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgediff", "run", PROMPT, "--steps", "1", "--json", "--overwrite"]
        command += ["--memory", amount, "-o", str(tmp_path / "out.png")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    held = run("200MB")
    assert held.returncode == 0, held.stderr
    told = json.loads(held.stdout)["memory"]
    assert told["peak"] <= told["budget"] == 200_000_000
    assert "memory:" not in held.stderr
    (tmp_path / "out.png").unlink()
    refused = run("30MB")
    assert refused.returncode == ResourceError.exit_code
    assert "30 MB were allowed" in refused.stdout + refused.stderr
    assert not (tmp_path / "out.png").exists()
    assert run("lots").returncode == InputError.exit_code
