"""Build the wheel from a copy of the sources: ``python -m tests.wheel FOLDER``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def settings() -> dict[str, Any]:
    """Return what pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def copy_sources(target: Path) -> None:
    """Copy what a build reads: a build leaves folders where it works."""
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in settings()["tool"]["setuptools"]["package-dir"].values():
        shutil.copytree(ROOT / name, target / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)


def build(folder: Path) -> Path:
    """Build the wheel into ``folder`` and return the file."""
    with tempfile.TemporaryDirectory(prefix="edgediff-sources-") as copy:
        copy_sources(Path(copy))
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), copy]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the wheel cannot be built:\n{done.stdout}{done.stderr}")
    (file,) = folder.glob("*.whl")
    return file


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
