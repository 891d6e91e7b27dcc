"""The trace: well-formed, events of a thread nest, sessions on our clock, and operations as formulae say."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff.bench import trace, trace_session, traced
from edgediff.bench.record import Span
from edgediff.bench.trace_work import flops, written
from edgediff.pipeline import EMBEDDED
from edgediff.runtimes._ort_openvino import product
from edgediff.runtimes._ort_profile import Profile
from tests.edgediff.bench_sample import sample

Event = dict[str, Any]


def by_track(found: dict[str, Any]) -> dict[tuple[int, int], list[Event]]:
    """Return complete events by process and thread."""
    tracks: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in found["traceEvents"]:
        assert event["ph"] in ("X", "M")
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    return tracks


def names(found: dict[str, Any], what: str) -> dict[tuple[int, int], str]:
    """Return the names of processes or threads."""
    return {
        (e["pid"], e["tid"]): e["args"]["name"] for e in found["traceEvents"] if e["name"] == f"{what}_name"
    }


def check_nested(events: list[Event]) -> None:
    """Events are in order of their start, and each is inside whatever runs when it begins."""
    running: list[float] = []
    last = -1.0
    for event in events:
        assert event["ts"] >= last
        assert event["dur"] >= 0
        last = event["ts"]
        while running and running[-1] <= last + 1e-3:
            running.pop()
        end = last + event["dur"]
        assert not running or end <= running[-1] + 1e-3, event
        running.append(end)


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    """A trace of the embedded model, in processes of its own."""
    order = {
        "bundle": str(EMBEDDED), "options": {"threads": 1}, "prompt": "a red circle on a white background",
        "arguments": {"seed": 0, "num_inference_steps": 2},
    }  # fmt: skip
    return json.loads(json.dumps(traced.trace(order, sample())))  # type: ignore[no-any-return]


def test_a_trace_is_well_formed(drawn: dict[str, Any]) -> None:
    for events in by_track(drawn).values():
        check_nested(events)
    assert set(by_track(drawn)) == set(names(drawn, "thread"))
    processes = names(drawn, "process")
    assert [n.split(",")[-1] for n in processes.values()][1:] == [" as measured"] * 2
    tracks = {name for (pid, _), name in names(drawn, "thread").items() if pid == 1}
    assert {f"{role}: ONNX Runtime" for role in ("text_encoder", "denoiser", "decoder")} <= tracks


def test_a_session_runs_inside_our_span_of_it(drawn: dict[str, Any]) -> None:
    """Both clocks are one: each run of a session lies in a span of ours that has its role's name."""
    tracks, threads = by_track(drawn), names(drawn, "thread")
    ours = [e for key, events in tracks.items() for e in events if key[0] == 1 and e["cat"] == "edgediff"]
    for role, runs in (("text_encoder", 2), ("denoiser", 3), ("decoder", 2)):  # one more to warm up
        (key,) = [key for key, name in threads.items() if name == f"{role}: ONNX Runtime"]
        sessions = [e for e in tracks[key] if e["name"] == "model_run"]
        spans = [e for e in ours if e["name"] == role]
        assert len(sessions) == len(spans) == runs
        for run, span in zip(sessions, spans, strict=True):
            assert span["ts"] <= run["ts"]
            assert run["ts"] + run["dur"] <= span["ts"] + span["dur"] + 1
            inside = [
                e for e in tracks[key]
                if "op_type" in e.get("args", {}) and run["ts"] <= e["ts"] <= run["ts"] + run["dur"]
            ]  # fmt: skip
            assert len(inside) > 20
            assert 0 < sum(e["dur"] for e in inside) <= run["dur"]
            assert all(e["args"]["provider"] for e in inside)


def test_operations_in_a_trace_are_those_of_the_network(drawn: dict[str, Any]) -> None:
    """Passes of one network have equal operations, and they are mostly convolutions."""
    (key,) = [key for key, name in names(drawn, "thread").items() if name == "denoiser: ONNX Runtime"]
    events = by_track(drawn)[key]
    starts = [e for e in events if e["name"] == "model_run"]
    counted = [
        sum(e["args"].get("flops", 0) for e in events
            if "args" in e and r["ts"] <= e["ts"] <= r["ts"] + r["dur"])
        for r in starts[1:]
    ]  # fmt: skip
    assert counted[0] == counted[1] > 1e8


def test_a_runtime_without_profiles_is_named_as_such() -> None:
    order = {"bundle": str(EMBEDDED), "options": {"runtime": "null"}, "prompt": "a", "arguments": {"seed": 0}}
    found = traced.trace(order, sample())
    assert names(found, "process")[1, 0].endswith("tells nothing of nodes")
    for events in by_track(found).values():
        check_nested(events)


def test_operations_of_nodes() -> None:
    def node(kind: str, given: list[list[int]], made: list[int]) -> dict[str, Any]:
        shapes = [{"float": shape} for shape in given]
        return {"op_name": kind, "input_type_shape": shapes, "output_type_shape": [{"float": made}]}

    x, y = [2, 320, 64, 64], [2, 640, 32, 32]
    expected = 2 * 2 * 640 * 32 * 32 * 320 * 9
    assert flops(node("Conv", [x, [640, 320, 3, 3], [640]], y)) == expected
    assert flops(node("QLinearConv", [x, [], [], [640, 320, 3, 3]], y)) == expected
    assert flops(node("Conv", [x, [320, 1, 3, 3]], x)) == 2 * 2 * 320 * 64 * 64 * 9  # depthwise
    assert flops(node("MatMul", [[2, 77, 768], [768, 320]], [2, 77, 320])) == 2 * 2 * 77 * 768 * 320
    heads = [[2, 4096, 320], [2, 77, 320], [2, 77, 320]]
    assert flops(node("MultiHeadAttention", heads, [2, 4096, 320])) == 4 * 2 * 4096 * 77 * 320
    assert flops(node("Add", [x, x], x)) is None
    assert flops({"op_name": "Conv"}) is None
    assert flops({}) is None
    assert written([{"float": [1, 2]}, {"int64": []}]) == "float 1x2, int64 scalar"


def test_what_sticks_out_is_cut_and_order_is_restored() -> None:
    events = [
        {"name": "b", "ts": 5.0, "dur": 6.0},
        {"name": "a", "ts": 0.0, "dur": 10.0},
        {"name": "c", "ts": 12.0, "dur": 1.0},
        {"name": "a0", "ts": 0.0, "dur": 1.0},
    ]
    found = trace.nested(events)
    assert [(e["name"], e["ts"], e["dur"]) for e in found] == [
        ("a", 0.0, 10.0), ("a0", 0.0, 1.0), ("b", 5.0, 5.0), ("c", 12.0, 1.0),
    ]  # fmt: skip
    check_nested(found)
    assert events[0]["dur"] == 6.0  # what was given stays as it was


def test_profiles_are_read_by_role(tmp_path: Path) -> None:
    event = {"cat": "Node", "ph": "X", "name": "n_kernel_time", "ts": 4, "dur": 2, "args": {"op_name": "Add"}}
    (tmp_path / "unet%2Fmodel.onnx.2000000.json").write_text(json.dumps([event]))
    (tmp_path / "other.onnx.3000000.json").write_text("[]")
    (tmp_path / "session-00_2026.json").write_text("[{")  # of a session that nobody closed
    found = trace.profiles(tmp_path, {"unet/model.onnx": "denoiser"}, 1_000_000)
    assert set(found) == {"denoiser", "other.onnx"}
    made = trace.chrome([trace.Traced("p", (Span("s", "warm", "main", 0.5, 0.25),), found)], {"made": "now"})
    (span,) = [e for e in made["traceEvents"] if e["name"] == "s"]
    assert (span["ts"], span["dur"]) == (500_000.0, 250_000.0)
    (node,) = [e for e in made["traceEvents"] if e["name"] == "Add n"]
    assert node["ts"] == 1004.0  # 1 ms after the zero, and 4 microseconds
    assert made["otherData"] == {"made": "now"}


def test_kernels_last_until_the_next_one() -> None:
    """What is told as a kernel's length is a mean over all runs so far."""

    def kernel(name: str, ts: int, mean: int, run: str) -> dict[str, Any]:
        args = {"ort_correlation_id": run, "ov_node_type": "Convolution", "ov_exec_type": "brgconv_amx_bf16",
                "ep": "OpenVINOExecutionProvider"}  # fmt: skip
        return {"cat": "Kernel", "ph": "X", "name": f"OV::{name}", "ts": ts, "dur": mean, "args": args}

    node = {
        "cat": "Node", "ph": "X", "name": "x_kernel_time", "ts": 200, "dur": 40,
        "args": {"op_name": "OpenVINOExecutionProvider_7_0", "provider": "OpenVINOExecutionProvider"},
    }  # fmt: skip
    told = [kernel("a", 100, 30, "1"), kernel("b", 130, 10, "1"), node, kernel("a", 200, 20, "2"),
            kernel("b", 210, 35, "2")]  # fmt: skip
    found = trace.nested(trace_session.events(told, 1000.0))
    assert [(e["name"], e["ts"], e["dur"]) for e in found] == [
        ("Convolution a", 1100, 30), ("Convolution b", 1130, 10),
        ("OpenVINO subgraph", 1200, 40), ("Convolution a", 1200, 10), ("Convolution b", 1210, 30),
    ]  # fmt: skip
    assert found[0]["args"]["kernel"] == "brgconv_amx_bf16"


def test_a_profile_says_when_it_began(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    import time

    before = time.perf_counter_ns()
    options = ort.SessionOptions()
    profile = Profile(tmp_path, "a folder/model.onnx", options)
    session = ort.InferenceSession(product(), options, providers=["CPUExecutionProvider"])
    profile.follow(session)
    ran = time.perf_counter_ns()
    session.run(None, {name: np.ones((32, 32), np.float32) for name in ("a", "b")})
    after = time.perf_counter_ns()
    profile.end()
    profile.end()  # closing twice is no harm
    (file,) = tmp_path.iterdir()
    name, _, start = file.stem.rpartition(".")
    assert name == "a%20folder%2Fmodel.onnx"
    assert before <= int(start) <= ran
    (run,) = [e for e in json.loads(file.read_text()) if e["name"] == "model_run"]
    began = int(start) + 1000 * run["ts"]
    assert ran - 50_000 <= began <= began + 1000 * run["dur"] <= after + 50_000
