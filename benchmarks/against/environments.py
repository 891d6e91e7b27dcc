"""A virtual environment for each system, from the pins beside this file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PINS = Path(__file__).parent / "requirements"
ROOT = Path(__file__).parents[2]


class Environments:
    """Environments under one folder; made when first asked for, used again if there."""

    def __init__(self, work: Path) -> None:
        self._work = work
        work.mkdir(parents=True, exist_ok=True)

    def python(self, name: str) -> Path:
        """Return the Python of an environment that has what ``requirements/NAME.txt`` pins.

        Lines that begin with ``#!`` are environment variables for the installation, those with ``#-``
        packages to take out afterwards; blocks parted by an empty line are installed one after the other.
        The ``edgediff`` environment gets a wheel of this repository.
        """
        folder = self._work / name
        python = folder / "bin" / "python"
        marker = folder / "installed.txt"
        pins = (PINS / f"{name}.txt").read_text()
        if marker.exists() and marker.read_text() == pins:
            return python
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        with tempfile.TemporaryDirectory() as scratch:
            root = _sources(Path(scratch) / "edgediff") if "{root}" in pins else None
            self._install(python, pins, root)
        marker.write_text(pins)
        return python

    def _install(self, python: Path, pins: str, root: Path | None) -> None:
        lines = pins.splitlines()
        given = dict(line[2:].strip().split("=", 1) for line in lines if line.startswith("#!"))
        blocks = "\n".join(line for line in lines if not line.startswith("#")).split("\n\n")
        for block in blocks:
            wanted = [word.replace("{root}", str(root)) for word in block.split("\n") if word]
            if wanted:
                self._pip(python, ["install", "-q", *wanted], {**os.environ, **given})
        for line in lines:
            if line.startswith("#-"):
                self._pip(python, ["uninstall", "-q", "-y", line[2:].strip()], {**os.environ})

    def own_wheel(self) -> None:
        """Install this checkout anew in the ``edgediff`` environment, from a copy of the sources."""
        python = self.python("edgediff")
        with tempfile.TemporaryDirectory() as scratch:
            source = _sources(Path(scratch) / "edgediff")
            words = ["install", "-q", "--no-deps", "--force-reinstall", "--no-build-isolation", str(source)]
            self._pip(python, words, {**os.environ})

    def megabytes(self, name: str) -> float:
        """Size of an environment's packages less what an empty environment has, compiled files left out."""
        self.python(name)
        return round((_bytes(self._work / name) - _bytes(self._empty())) / 1e6, 1)

    def _empty(self) -> Path:
        folder = self._work / "empty"
        if not folder.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        return folder

    def _pip(self, python: Path, words: list[str], given: dict[str, str]) -> None:
        log = self._work / "install.log"
        with log.open("a") as stream:
            done = subprocess.run([python, "-m", "pip", *words], env=given, stdout=stream, stderr=stream)
        if done.returncode:
            raise SystemExit(f"pip {' '.join(words)} failed; see {log}")


def _sources(folder: Path) -> Path:
    """A copy of what the wheel is made from, so that nothing is built inside the checkout."""
    folder.mkdir(parents=True)
    for name in ("edgediff", "export", "runtimes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    return folder


def _bytes(folder: Path) -> int:
    return sum(
        file.lstat().st_size
        for file in folder.rglob("*")
        if not file.is_symlink() and file.is_file() and file.suffix != ".pyc"
    )
