"""Which wheels own the package onnxruntime, found without importlib.metadata, which it must agree with."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from edgediff.runtimes import _ort_providers as providers


def test_it_agrees_with_importlib_metadata() -> None:
    installed = {d.metadata["Name"].lower().replace("_", "-") for d in metadata.distributions()}
    assert set(providers.installed_wheels()) == installed & set(providers.WHEELS)


def test_two_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime-1.31.1", "onnxruntime_gpu-1.31.1", "onnxruntime_extensions-0.1"):
        (tmp_path / f"{name}.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "missing"), str(tmp_path / "a.zip")])
    assert providers.installed_wheels() == ["onnxruntime", "onnxruntime-gpu"]
