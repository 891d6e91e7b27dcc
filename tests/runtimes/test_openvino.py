"""Precision on OpenVINO: asked for, measured, refused where it is not there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import BundleError, InputError, UnsupportedError
from edgediff.runtimes import _ort_openvino as openvino
from edgediff.runtimes import _ort_providers as providers
from edgediff.runtimes.onnxruntime import OnnxRuntime

MISSING = importlib.util.find_spec("onnxruntime_ep_openvino") is None
real = pytest.mark.skipif(MISSING, reason="onnxruntime-ep-openvino is not installed")


class Session:
    """Multiplies after rounding both matrices as the processor of the story does."""

    def __init__(self, mantissa: int, provider: str) -> None:
        self._mantissa, self._provider = mantissa, provider

    def get_providers(self) -> list[str]:
        return [self._provider]

    def run(self, names: Any, feeds: dict[str, Any]) -> list[Any]:
        scale = 2.0**self._mantissa
        a, b = (np.round(feeds[name] * scale) / scale for name in ("a", "b"))
        return [(a @ b).astype(np.float32)]


class Ort:
    """As much of onnxruntime as the measurement needs."""

    def __init__(self, mantissa: int = 23, provider: str = "OpenVINOExecutionProvider") -> None:
        self.sessions = 0
        self._made = (mantissa, provider)

    def SessionOptions(self) -> Any:
        return type("Options", (), {"add_provider_for_devices": lambda *arguments: None})()

    def InferenceSession(self, model: bytes, options: Any) -> Session:
        self.sessions += 1
        return Session(*self._made)


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "_measured", {})


@pytest.mark.parametrize(("precision", "mantissa"), [("fp32", 23), ("bf16", 7)])
def test_what_is_measured_is_what_was_asked_for(precision: str, mantissa: int) -> None:
    ort, options = Ort(mantissa), openvino.configured(precision, 3)
    for _ in range(2):
        openvino.check_precision(ort, [], options, precision)
    assert ort.sessions == 1
    hints = json.loads(options["load_config"])["CPU"]
    assert hints == {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
        "INFERENCE_NUM_THREADS": "3",
    }


@pytest.mark.parametrize(
    ("ort", "precision", "found"),
    [
        (Ort(23), "bf16", "in fp32 there"),
        (Ort(7), "fp32", "in bf16 there"),
        (Ort(10), "fp32", "in fp16 there"),
        (Ort(23, "CPUExecutionProvider"), "fp32", "own kernels"),
    ],
)
def test_another_precision_is_refused(ort: Ort, precision: str, found: str) -> None:
    with pytest.raises(UnsupportedError, match=found):
        openvino.check_precision(ort, [], openvino.configured(precision, 1), precision)


def test_unknown_precision() -> None:
    with pytest.raises(InputError, match="choose one of fp32, bf16"):
        openvino.configured("int3", 1)


def test_other_devices_have_one_precision() -> None:
    ort = providers.import_onnxruntime()
    with pytest.raises(InputError, match="take the device openvino"):
        providers.select(ort, "cpu", ort.SessionOptions(), "bf16")


def test_the_product_is_a_model() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(openvino.product())
    onnx.checker.check_model(model, full_check=True)
    session = providers.import_onnxruntime().InferenceSession(openvino.product())
    a, b = np.random.default_rng(0).standard_normal((2, 32, 32), np.float32)
    assert np.allclose(session.run(None, {"a": a, "b": b})[0], a @ b, atol=1e-5)


@pytest.fixture
def graph(tmp_path: Path) -> tuple[Path, GraphSpec]:
    """y = x times a matrix."""
    onnx = pytest.importorskip("onnx")
    weight = np.random.default_rng(1).standard_normal((32, 32)).astype(np.float32)
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["rows", 32])],
        [onnx.helper.make_tensor_value_info("y", 1, ["rows", 32])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(made, ir_version=10, opset_imports=opset), tmp_path / "g.onnx")
    ports = tuple((TensorSpec(name, "float32", ("rows", 32)),) for name in "xy")
    return tmp_path / "g.onnx", GraphSpec("onnxruntime", "portable", "g.onnx", "fp32", *ports)


def test_extents_are_fixed(graph: tuple[Path, GraphSpec]) -> None:
    file, spec = graph
    loaded = OnnxRuntime().load(spec, file, "cpu", {"extents": {"rows": 4, "elsewhere": 2}}, {})
    assert loaded({"x": np.ones((4, 32), np.float32)})["y"].shape == (4, 32)
    with pytest.raises(BundleError, match="the run failed"):
        loaded({"x": np.ones((5, 32), np.float32)})


@real
def test_bf16_on_the_plug_in(graph: tuple[Path, GraphSpec]) -> None:
    file, spec = graph
    x = {"x": np.random.default_rng(2).standard_normal((16, 32), np.float32)}
    exact = OnnxRuntime().load(spec, file, "cpu", {}, {})(x)["y"]
    plain = OnnxRuntime().load(spec, file, "openvino", {"threads": 1}, {})
    assert plain.info.precision == "fp32"
    assert np.allclose(plain(x)["y"], exact, atol=1e-4)
    try:
        coarse = OnnxRuntime().load(spec, file, "openvino", {"precision": "bf16", "threads": 1}, {})
    except UnsupportedError as error:
        assert "leave precision out" in str(error)
        pytest.skip("this processor has no bf16")
    assert coarse.info.precision == "fp32+bf16"
    difference = np.abs(coarse(x)["y"] - exact).max() / np.abs(exact).max()
    assert 1e-4 < difference < 3e-2
