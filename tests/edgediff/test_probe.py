"""What the device ``auto`` means: the rule on made-up times, the graph itself, and what is remembered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff import cache_folder, probe, probe_graphs
from edgediff.bundle import Bundle, FileRecord

Candidates = Sequence[tuple[str, str | None]]


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({"cpu": 1.0, "openvino": 0.9}, ("cpu", None)),  # not worth another engine
        ({"cpu": 1.0, "openvino": 0.5}, ("openvino", None)),
        ({"cpu": 1.0, "openvino": 0.5, "openvino:bf16": 0.45}, ("openvino", None)),  # not worth its digits
        ({"cpu": 1.0, "openvino": 0.5, "openvino:bf16": 0.1}, ("openvino", "bf16")),
        ({"cpu": 1.0, "openvino": 1.2, "openvino:bf16": 0.3}, ("openvino", "bf16")),
        ({"cpu": 1.0, "openvino": 0.5, "cuda": 0.01}, ("cuda", None)),
        ({"openvino:bf16": 0.3}, ("openvino", "bf16")),
        ({"cpu": 0.4}, ("cpu", None)),
        ({}, ("cpu", None)),
    ],
)
def test_the_rule(measured: dict[str, float], expected: tuple[str, str | None]) -> None:
    choice = probe.decided(measured)
    assert (choice.device, choice.precision) == expected
    assert choice.coarse == (expected[1] == "bf16")


def test_small_models_stay_on_the_cpu_unmeasured(onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_measure", lambda *_: pytest.fail("a small model was measured for"))
    pipe = edgediff.load(onnx_bundle, threads=1)
    assert pipe.choice is not None
    assert str(pipe.choice) == "device auto: cpu, as for all small models"
    assert edgediff.load(onnx_bundle, device="cpu").choice is None


def grown(bundle: Bundle, precision: str = "fp32", profiles: Sequence[str] = ("portable",)) -> Bundle:
    """The bundle as if its denoiser had 1 GB of weights."""
    spec = bundle.graph("denoiser")
    made = tuple(replace(spec, precision=precision, profile=profile) for profile in profiles)
    files = {**bundle.files, spec.file: FileRecord(1 << 30, "0" * 64)}
    return replace(bundle, components={**bundle.components, "denoiser": made}, files=files)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Candidates, bool]]:
    """What was measured for; openvino in bf16 is four times as fast as anything else."""
    seen: list[tuple[Candidates, bool]] = []

    def measure(candidates: Candidates, integers: bool, threads: int | None) -> dict[str, float]:
        seen.append((list(candidates), integers))
        names = [device if precision is None else f"{device}:{precision}" for device, precision in candidates]
        return {name: 0.01 if name.endswith("bf16") else 0.04 for name in names}

    monkeypatch.setattr(probe, "_measure", measure)
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: name)
    return seen


def test_a_choice_is_remembered(
    onnx_bundle: Path, tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = grown(Bundle.open(onnx_bundle))
    first = probe.choose(bundle, 2, None, tmp_path)
    again = probe.choose(bundle, 2, None, tmp_path)
    assert asked == [([("cpu", None), ("openvino", None), ("openvino", "bf16")], False)]
    assert not first.remembered
    assert again == replace(first, remembered=True)
    assert (again.device, again.precision) == ("openvino", "bf16")
    probe.choose(bundle, 1, None, tmp_path)  # other threads are another question
    monkeypatch.setattr(probe, "versions", lambda: ["onnxruntime-99"])
    probe.choose(bundle, 2, None, tmp_path)
    assert len(asked) == 3


@pytest.mark.parametrize("content", ["{", "[]", '{"%s": {"device": "rm -rf", "precision": 1}}', '{"%s": 3}'])
def test_a_damaged_memory_is_measured_anew(
    onnx_bundle: Path, tmp_path: Path, asked: list[Any], content: str
) -> None:
    bundle = grown(Bundle.open(onnx_bundle))
    probe.choose(bundle, 2, None, tmp_path)
    file = tmp_path / cache_folder.CHOICES
    (key,) = json.loads(file.read_text())
    file.write_text(content.replace("%s", key))
    assert probe.choose(bundle, 2, None, tmp_path).device == "openvino"
    assert len(asked) == 2


def test_a_precision_that_was_asked_for_is_kept(onnx_bundle: Path, asked: list[Any]) -> None:
    bundle = grown(Bundle.open(onnx_bundle))
    assert probe.choose(bundle, 2, "fp32").precision == "fp32"
    assert probe.choose(bundle, 2, "bf16").precision == "bf16"
    assert [candidates for candidates, _ in asked] == [
        [("cpu", "fp32"), ("openvino", "fp32")],
        [("openvino", "bf16")],
    ]


def test_integers_need_a_form_made_for_the_device(onnx_bundle: Path, asked: list[Any]) -> None:
    bundle = Bundle.open(onnx_bundle)
    assert probe.choose(grown(bundle, "int8"), 2).device == "cpu"
    assert asked == []
    assert probe.choose(grown(bundle, "int8", ("portable", "openvino")), 2).device == "openvino"
    assert asked[0][1]


def test_coarser_numbers_are_never_silent(onnx_bundle: Path, asked: list[Any]) -> None:
    bundle = grown(Bundle.open(onnx_bundle))
    with pytest.warns(UserWarning, match="openvino in bf16, the best of a short measurement"):
        assert probe.settled(bundle, 2, None, None).coarse
    assert probe.settled(bundle, 2, "denoiser=bf16", None).coarse  # asked for: nothing to warn of
    assert not probe.settled(bundle, 2, "fp32", None).coarse


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("integers", [False, True])
def test_the_graph_computes_what_it_says(
    integers: bool, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    for name, value in {"SIDE": 4, "CHANNELS": 16, "HEADS": 2}.items():
        monkeypatch.setattr(probe_graphs, name, value)
    monkeypatch.setattr(probe_graphs, "SHAPE", (1, 16, 4, 4))
    model = onnx.load_from_string(probe_graphs.block(integers, symmetric))
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).standard_normal(probe_graphs.SHAPE).astype(np.float32)
    (right,) = ReferenceEvaluator(model).run(None, {probe_graphs.INPUT: x})
    session = __import__("onnxruntime").InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {probe_graphs.INPUT: x})
    assert right.shape == (1, 16, 16)
    assert np.abs(found - right).max() < (0.05 if integers else 1e-5) * np.abs(right).max()
    kinds = {node.op_type for node in model.graph.node}
    assert ("QuantizeLinear" in kinds) is integers


def test_it_is_measured_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIDE": 4, "CHANNELS": 16, "HEADS": 2}.items():
        monkeypatch.setattr(probe_graphs, name, value)
    monkeypatch.setattr(probe_graphs, "SHAPE", (1, 16, 4, 4))
    found = probe._measure([("cpu", None), ("cuda", None)], False, 1)
    assert list(found) == ["cpu"]  # a device that is not there is left out
    assert found["cpu"] > 0
