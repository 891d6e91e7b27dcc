"""Plug-in providers, with a stand-in for the package: registered once, also when graphs load side by side."""

from __future__ import annotations

import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edgediff.errors import UnsupportedError
from edgediff.runtimes import _ort_providers as providers


class Ort:
    """As much of onnxruntime as a plug-in needs; a second registration fails, as the real one's does."""

    GraphOptimizationLevel = types.SimpleNamespace(ORT_DISABLE_ALL=0)

    def __init__(self, hardware: bool = True) -> None:
        self.registered: list[str] = []
        self.asked: list[Any] = []
        self._hardware = hardware

    def register_execution_provider_library(self, name: str, path: str) -> None:
        time.sleep(0.05)  # long enough for the others to arrive
        if name in self.registered:
            raise RuntimeError("EP library is already registered")
        self.registered.append(name)

    def get_ep_devices(self) -> list[Any]:
        return [types.SimpleNamespace(ep_name=n) for n in self.registered] if self._hardware else []

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        self.asked.append((devices, options))


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = types.ModuleType("onnxruntime_ep_openvino")
    made.get_ep_name = lambda: "Fake"
    made.get_library_path = lambda: "/nowhere"
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", made)
    monkeypatch.setattr(providers, "_registered", set())
    monkeypatch.setattr(providers.openvino, "check_precision", lambda *arguments: None)


def test_side_by_side() -> None:
    ort = Ort()
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: providers.select(ort, "openvino", ort), range(3)))
    assert results == [{}, {}, {}]
    assert ort.registered == ["Fake"]
    assert all('"f32"' in options["load_config"] for _, options in ort.asked)


def test_no_hardware_is_an_error() -> None:
    with pytest.raises(UnsupportedError, match="no hardware"):
        providers.select(Ort(hardware=False), "openvino", Ort())
