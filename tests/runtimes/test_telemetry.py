"""ONNX Runtime records and sends usage unless it is told not to; edgediff tells it before the import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def python(script: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script with an empty home and without the variable that this test is about."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    folders = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "XDG_DATA_HOME": str(home / "data")}
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**inherited, **folders, "TMPDIR": str(home / "tmp"), **environment},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "tmp").mkdir(parents=True)
    return tmp_path / "home"


DRAW = "import os, edgediff; edgediff.load({bundle!r}, threads=1)('a', seed=0)\n"


def test_drawing_leaves_no_trace(onnx_bundle: Path, home: Path) -> None:
    tell = "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = python(DRAW.format(bundle=str(onnx_bundle)) + tell, home)
    assert done.stdout.strip() == "1"
    assert done.stderr == ""
    assert [p for p in home.rglob("*") if p.is_file()] == []


def test_drawing_opens_no_socket(onnx_bundle: Path, home: Path) -> None:
    guard = (
        "import sys\n"
        "def hook(event, args):\n"
        "    if event.startswith('socket.'): raise SystemExit(f'{event}: {args}')\n"
        "sys.addaudithook(hook)\n"
    )
    python(guard + DRAW.format(bundle=str(onnx_bundle)), home)


@pytest.mark.skipif(not Path("/proc/self/net").exists(), reason="needs /proc")
def test_drawing_holds_no_connection(onnx_bundle: Path, home: Path) -> None:
    """Sockets opened by native code do not pass Python's hooks, but they are files of the process."""
    look = (
        "held = []\n"
        "for fd in os.listdir('/proc/self/fd'):\n"
        "    try: held.append(os.readlink(f'/proc/self/fd/{fd}'))\n"
        "    except OSError: pass\n"
        "print([name for name in held if name.startswith('socket:')])"
    )
    assert python(DRAW.format(bundle=str(onnx_bundle)) + look, home).stdout.strip() == "[]"


def test_a_host_that_imported_it_first_is_warned(onnx_bundle: Path, home: Path) -> None:
    draw = "import onnxruntime\n" + DRAW.format(bundle=str(onnx_bundle))
    done = python(draw, home)
    assert done.stderr.count("onnxruntime was imported before edgediff") == 1
    assert "ORT_DISABLE_TELEMETRY=1" in done.stderr
    assert python(draw, home, ORT_DISABLE_TELEMETRY="1").stderr == ""


def test_the_users_own_setting_is_kept(onnx_bundle: Path, home: Path) -> None:
    tell = DRAW.format(bundle=str(onnx_bundle)) + "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert python(tell, home, ORT_DISABLE_TELEMETRY="true").stdout.strip() == "true"
