"""What ``edgediff devices`` and ``edgediff doctor`` say of Core ML."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from edgediff.runtimes import _coreml_tools as tools
from tests.runtimes.mac import Mac

pytest.importorskip("coremltools")


def said(verb: str) -> dict[str, Any]:
    """What a verb prints as JSON."""
    from click.testing import CliRunner

    from edgediff.cli import group

    found: dict[str, Any] = json.loads(CliRunner().invoke(group, [verb, "--json"]).stdout)
    return found


def test_devices_and_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools, "on_mac", lambda: False)
    monkeypatch.setattr("sys.platform", "linux")
    here = said("devices")["devices"]
    assert not [name for name in here if name.startswith("coreml-")]
    assert said("doctor")["coreml"] == {
        "export": "yes", "run": "no: Core ML runs on macOS alone; --runtime mil is a slow reference"
    }  # fmt: skip
    Mac(monkeypatch, tmp_path)
    found = said("devices")["devices"]
    assert found == [*here, *(name for name in ("coreml", *tools.UNITS) if name not in here)]
    assert said("doctor")["coreml"]["run"] == f"on coreml, {', '.join(tools.UNITS)}"


def test_doctor_without_a_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgediff.cli import doctor

    monkeypatch.setitem(sys.modules, "coremltools", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    faults: list[str] = []
    for version, machine, line in (
        (
            (3, 14),
            "x86_64",
            "coremltools needs Python 3.11 to 3.13 on Linux x86-64 or macOS, this is Python 3.14",
        ),
        ((3, 12), "aarch64", "on Linux x86-64 or macOS, this is Python 3.12, Linux aarch64"),
        ((3, 12), "x86_64", "no: pip install 'edgediff[coreml]'"),
    ):
        monkeypatch.setattr("sys.version_info", (*version, 0))
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert line in doctor._coreml(faults)["export"]
    assert not faults


def test_doctor_with_a_broken_coremltools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgediff.cli import doctor

    Mac(monkeypatch, tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "nowhere"))
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    faults: list[str] = []
    assert "cannot be imported" in doctor._coreml(faults)["export"]
    assert "pip install --force-reinstall 'edgediff[coreml]'" in faults[0]
