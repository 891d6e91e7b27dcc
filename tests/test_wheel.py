"""The wheel: every package of ours, nothing else, and types that hold without the editable install's hook."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.wheel import ROOT, build, settings

SETTINGS = settings()
SETUPTOOLS = SETTINGS["tool"]["setuptools"]


def folder_of(package: str) -> Path:
    """Return where the sources of ``package`` lie, by the longest mapped prefix."""
    mapped = SETUPTOOLS["package-dir"]
    prefix = max((p for p in mapped if f"{package}.".startswith(f"{p}.")), key=len)
    return ROOT / mapped[prefix] / package[len(prefix) :].lstrip(".").replace(".", "/")


def test_packages_are_listed() -> None:
    listed = {folder_of(package) for package in SETUPTOOLS["packages"]}
    rooms = [ROOT / folder for folder in SETUPTOOLS["package-dir"].values()]
    found = {file.parent for room in rooms for file in room.rglob("__init__.py")}
    assert found == listed
    without = {f.parent for room in rooms for f in room.rglob("*.py")} - found
    assert not without, f"folders with Python files but no __init__.py: {without}"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unzipped: EDGEDIFF_WHEEL if set, else built here."""
    folder = tmp_path_factory.mktemp("wheel")
    built = os.environ.get("EDGEDIFF_WHEEL")
    if built is None:
        pytest.importorskip("build")
        pytest.importorskip("setuptools")
        built = str(build(folder))
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unzipped")
    return folder / "unzipped"


@pytest.mark.slow
def test_top_level_names(wheel: Path) -> None:
    version = SETTINGS["project"]["version"]
    assert {p.name for p in wheel.iterdir()} == {"edgediff", f"edgediff-{version}.dist-info"}


DATA = ("py.typed", "bundle.schema.json", "table.schema.json", "bench/record.schema.json")


@pytest.mark.slow
def test_every_file_and_no_other(wheel: Path) -> None:
    expected = set()
    for package in SETUPTOOLS["packages"]:
        expected |= {f"{package.replace('.', '/')}/{f.name}" for f in folder_of(package).glob("*.py")}
    data = [ROOT / "edgediff" / n for n in DATA]
    data += [f for f in (ROOT / "edgediff" / "bundles").rglob("*") if f.is_file()]
    expected |= {f.relative_to(ROOT).as_posix() for f in data if f.name != ".DS_Store"}
    found = {p.relative_to(wheel).as_posix() for p in (wheel / "edgediff").rglob("*") if p.is_file()}
    assert found == expected


@pytest.mark.slow
def test_the_embedded_bundle_is_whole(wheel: Path) -> None:
    from edgediff.bundle import Bundle

    bundle = Bundle.open(wheel / "edgediff" / "bundles" / "shapes")
    assert bundle.files
    bundle.verify()


@pytest.mark.slow
def test_types_hold_in_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Strict mypy sees every module of ours here; through the editable hook it would see Any."""
    pytest.importorskip("mypy")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--no-incremental",
    ]
    environment = {**os.environ, "MYPYPATH": str(wheel), "MYPY_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "--package", "edgediff"], capture_output=True, text=True, cwd=wheel, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checked = int(done.stdout.rpartition(" in ")[2].split()[0])
    # Folders of data count as namespace packages, so there may be more.
    assert checked >= len(list((wheel / "edgediff").rglob("*.py"))), done.stdout
