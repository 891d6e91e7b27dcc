"""The example program from another folder and another thread; and the same, frozen with PyInstaller."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgediff.pipeline import EMBEDDED
from tests.facts import FACTS

APP = Path(__file__).parent / "app.py"
PROMPT = "a yellow star on a navy background"
pytestmark = pytest.mark.skipif(not EMBEDDED.is_dir(), reason="no embedded model in this checkout")


def draws(command: list[str | Path], folder: Path) -> None:
    done = subprocess.run([*command, PROMPT, "star.png"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["step", "1", "step", "2", "step", "3", "step", "4"]
    assert (folder / "star.png").read_bytes().startswith(b"\x89PNG")


def test_the_program_is_short() -> None:
    lines = [line for line in APP.read_text().splitlines() if line.strip()]
    assert len(lines) <= 16


def test_from_another_folder_and_thread(tmp_path: Path) -> None:
    draws([sys.executable, APP], tmp_path)


@pytest.mark.slow
def test_frozen(installed: Path, tmp_path: Path) -> None:
    """In the environment that the README makes: PyInstaller cannot follow an editable installation."""
    python = installed / ".venv" / "bin" / "python"
    got = subprocess.run(
        [python, "-m", "pip", "install", "-q", "pyinstaller"], capture_output=True, text=True
    )
    if got.returncode:
        pytest.skip(f"PyInstaller does not install here: {got.stderr.strip()[-200:]}")
    command = [python, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR", "--name", "app"]
    for option, folder in (("--distpath", "dist"), ("--workpath", "work"), ("--specpath", "spec")):
        command += [option, str(tmp_path / folder)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "PYTHON"))}
    shutil.copy(APP, tmp_path)  # beside its package the freezer would take edgediff from the checkout
    done = subprocess.run([*command, "app.py"], cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    program = tmp_path / "dist" / "app" / "app"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    draws([program], elsewhere)
    size = sum(f.stat().st_size for f in program.parent.rglob("*") if f.is_file() and not f.is_symlink())
    FACTS.append(f"the example program, frozen, takes {size / 1e6:.0f} MB")
