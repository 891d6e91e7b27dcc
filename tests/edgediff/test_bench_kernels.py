"""What limits are measured with computes what it says, and is counted as what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff.bench import kernels, limits, profile_work
from edgediff.bench.kernels import Kernel
from edgediff.bench.onnx_writer import Model
from edgediff.bundle import Bundle, GraphSpec
from edgediff.pipeline import EMBEDDED
from edgediff.runtime import find


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROWS", 24), ("WIDTH", 32), ("CHAIN", 2), ("CHANNELS", 16), ("SIDE", 8),
                        ("CONVOLUTIONS", 2)):  # fmt: skip
        monkeypatch.setattr(kernels, name, value)


def all_kernels() -> list[Kernel]:
    return [
        *kernels.floats(), *kernels.integers("CPUExecutionProvider"), *kernels.integers("OpenVINO"),
    ]  # fmt: skip


def ran(model: bytes, x: Any, folder: Path) -> Any:
    file = folder / "kernel.onnx"
    file.write_bytes(model)
    spec = GraphSpec("onnxruntime", "portable", file.name, "fp32")
    graph = find("onnxruntime").load(spec, file, "cpu", {"threads": 1, "scan": False}, {})
    try:
        return next(iter(graph({"x": x}).values()))
    finally:
        graph.close()


def test_they_are_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    for kernel in all_kernels():
        onnx.checker.check_model(onnx.load_from_string(kernel.model))


def test_integers_compute_what_floats_do(tmp_path: Path) -> None:
    gemm, conv = kernels.floats()
    for kernel in all_kernels():
        plain = gemm if kernel.kind == "gemm" else conv
        assert kernel.flops == plain.flops
        x = np.random.default_rng(1).standard_normal(kernel.shape).astype(np.float32)
        wanted, found = ran(plain.model, x, tmp_path), ran(kernel.model, x, tmp_path)
        error = np.square(wanted - found).mean() / np.square(wanted).mean()
        assert error < 0.01, kernel.form
        assert (error > 1e-9) == (kernel.form != "float"), kernel.form


def test_a_product_by_its_closed_form(tmp_path: Path) -> None:
    model = Model()
    draw = np.random.default_rng(2)
    weight = draw.standard_normal((3, 5)).astype(np.float32)
    y = model.node("Concat", model.node("MatMul", "x", model.constant(weight)), "x", axis=1)
    x = draw.standard_normal((4, 3)).astype(np.float32)
    found = ran(model.written({"x": (4, 3)}, {y: (4, 8)}), x, tmp_path)
    np.testing.assert_allclose(found, np.concatenate([x @ weight, x], axis=1), rtol=1e-5)


def test_work_counted_by_a_profiled_pass(tmp_path: Path) -> None:
    gemm, conv = kernels.floats()
    for kernel, kind, ends in (
        (gemm, "linear", 2 * 24 * 8 * 32 * 2), (conv, "conv", 2 * 64 * 8 * 16 * 2),
    ):  # fmt: skip
        (tmp_path / "kernel.onnx").write_bytes(kernel.model)
        bundle = Bundle(tmp_path, "", (), {}, None, None, {})  # type: ignore[arg-type]  # its path is read
        spec = GraphSpec("onnxruntime", "portable", "kernel.onnx", "fp32")
        counts = profile_work.counted(bundle, spec, {"x": kernel.shape})
        assert counts == {"conv": 0, "linear": 0, "attention": 0, kind: kernel.flops + ends}


def test_attention_is_counted_alike_in_all_its_forms() -> None:
    tokens, keys, width, heads = 12, 5, 32, 4
    event = {"cat": "Node", "name": "n_kernel_time"}

    def shaped(op: str, given: list[list[int]], made: list[int]) -> dict[str, Any]:
        told = {"input_type_shape": [{"float": s} for s in given], "output_type_shape": [{"float": made}]}
        return {**event, "args": {"op_name": op, **told}}

    apart = [
        shaped("FusedMatMul", [[2, heads, tokens, 8], [2, heads, 8, keys]], [2, heads, tokens, keys]),
        shaped("MatMul", [[2, heads, tokens, keys], [2, heads, keys, 8]], [2, heads, tokens, 8]),
    ]
    row = [2, tokens, width]
    fused = shaped("MultiHeadAttention", [row, [2, keys, width], [2, keys, width]], row)
    wanted = {"conv": 0, "linear": 0, "attention": 4 * 2 * tokens * keys * width}
    assert profile_work.summed(apart) == profile_work.summed([fused]) == wanted
    other = {"cat": "Session", "name": "run", "args": {}}
    assert profile_work.summed([other, shaped("Softmax", [row], row)])["attention"] == 0


def test_limits_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.0)
    monkeypatch.setattr(limits, "_COPIED", 1 << 20)
    wanted = {"device": "cpu", "provider": "CPUExecutionProvider", "option": None, "float": "fp32",
              "floats": True, "integers": True}  # fmt: skip
    lacking = {**wanted, "device": "nowhere", "integers": False}
    told = limits.done({"threads": 1, "wanted": [wanted, lacking]}, 0.0)
    found = {(each["kind"], each["precision"]): each for each in told["limits"]}
    assert list(found) == [
        ("gemm", "fp32"),
        ("conv", "fp32"),
        ("gemm", "int8"),
        ("conv", "int8"),
        ("copy", "bytes"),
    ]
    assert all(each["per_second"] > 0 for each in found.values())
    assert len(told["missing"]) == 2
    assert "nowhere" in told["missing"][0]


def test_the_embedded_model_is_counted() -> None:
    bundle = Bundle.open(EMBEDDED)
    order = {"bundle": str(bundle.path), "asked": [["text_encoder", {"input_ids": [1, 32]}], ["nothing", {}]]}
    counts, none = profile_work.done(order, 0.0)["counts"]
    assert none is None
    tokens, width, layers = 32, 128, 3  # four projections, and two of a feed-forward twice as wide
    assert counts == {
        "conv": 0,
        "linear": layers * 2 * tokens * (4 + 2 * 2) * width**2,
        "attention": layers * 4 * tokens**2 * width,
    }
