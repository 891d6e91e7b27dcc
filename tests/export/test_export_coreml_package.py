"""Packages: equal bytes for equal models, sound for coremltools, described for Xcode."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_folders import specs

from edgediff.errors import CheckFailed
from edgediff.export.coreml import xcrun
from edgediff.export.coreml.package import About, write
from edgediff.export.emit.mil_form import MilForm
from edgediff.export.emit.mil_model import coremltools, to_model
from edgediff.export.write import Folder

ABOUT = About("A network.", "1.2", "mit", {"x": "What goes in."}, {"com.edgediff.precision": "fp32"})


def _model(numbers: int = 400) -> Any:
    mb = coremltools().converters.mil.Builder
    weight = np.linspace(-1, 1, numbers, dtype=np.float32)[None]

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, numbers))], opset_version=coremltools().target.iOS17)
    def program(x: Any) -> Any:
        return mb.add(x=x, y=mb.const(val=weight, name="w"), name="out")

    return to_model(program, MilForm(half=False))


def _saved(path: Path, about: About = ABOUT, name: str = "Net", numbers: int = 400) -> Folder:
    path.mkdir()
    folder = Folder(path)
    write(folder, name, _model(numbers), about)
    return folder


def test_equal_models_are_equal_bytes(tmp_path: Path) -> None:
    first, second = _saved(tmp_path / "a"), _saved(tmp_path / "b")
    assert first.files == second.files and len(first.files) == 3
    for name in first.files:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


def test_coremltools_reads_it(tmp_path: Path) -> None:
    _saved(tmp_path / "a")
    model = coremltools().models.MLModel(str(tmp_path / "a" / "Net.mlpackage"), skip_model_load=True)
    assert (model.author, model.version, model.license) == ("edgediff", "1.2", "mit")
    assert model.short_description == "A network." and model.input_description["x"] == "What goes in."
    assert model.user_defined_metadata["com.edgediff.precision"] == "fp32"
    assert "com.github.apple.coremltools.conversion_date" not in model.user_defined_metadata


def test_our_reader_reads_it(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "a", name="controlnet/Net")
    found = specs(tmp_path / "a")["controlnet/Net"]
    assert [feature.name for feature in found.outputs] == ["out"]
    items = json.loads((folder.path / "controlnet/Net.mlpackage/Manifest.json").read_text())
    assert items["rootModelIdentifier"] in items["itemInfoEntries"] and len(items["itemInfoEntries"]) == 2


def test_identifiers_follow_name_and_content(tmp_path: Path) -> None:
    def root(folder: Folder, name: str = "Net") -> str:
        path = folder.path / f"{name}.mlpackage" / "Manifest.json"
        return str(json.loads(path.read_text())["rootModelIdentifier"])

    plain = root(_saved(tmp_path / "a"))
    assert plain != root(_saved(tmp_path / "b", name="Other"), "Other")
    assert plain != root(_saved(tmp_path / "c", numbers=401))
    assert plain != root(_saved(tmp_path / "d", about=About("Another.", "1.2")))


def test_what_coremltools_kept_is_removed(tmp_path: Path) -> None:
    model = _model()
    place = Path(model.package_path)
    assert place.is_dir()
    write(Folder(tmp_path), "Net", model, ABOUT)
    assert not place.exists()
    with pytest.raises(CheckFailed, match="made no package"):
        write(Folder(tmp_path), "Again", model, ABOUT)


class _Xcode:
    """A compiler that makes a folder, or refuses."""

    def __init__(self, works: bool) -> None:
        self.works = works
        self.calls: list[list[str]] = []

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        *_, package, into = command
        if self.works:
            made = Path(into) / f"{Path(package).stem}.mlmodelc"
            made.mkdir()
            (made / "coremldata.bin").write_bytes(b"compiled")
        return subprocess.CompletedProcess(
            command, 0 if self.works else 1, "", "" if self.works else "no such op"
        )


def _on_a_mac(monkeypatch: pytest.MonkeyPatch, works: bool) -> _Xcode:
    compiler = _Xcode(works)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(xcrun.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(xcrun.subprocess, "run", compiler)
    return compiler


def test_compiled_where_there_is_xcode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _saved(tmp_path / "a", name="controlnet/Net")
    compiler = _on_a_mac(monkeypatch, works=True)
    assert xcrun.compile_all(folder, ["controlnet/Net.mlpackage"], lambda line: None) == ()
    assert compiler.calls[0][:3] == ["/usr/bin/xcrun", "coremlcompiler", "compile"]
    assert folder.files["controlnet/Net.mlmodelc/coremldata.bin"]["bytes"] == 8


def test_a_package_that_xcode_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _saved(tmp_path / "a")
    _on_a_mac(monkeypatch, works=False)
    with pytest.raises(CheckFailed, match="no such op"):
        xcrun.compile_all(folder, ["Net.mlpackage"], lambda line: None)


def test_elsewhere_the_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    (note,) = xcrun.compile_all(Folder(tmp_path), ["Net.mlpackage"], lambda line: None)
    assert "xcrun coremlcompiler compile" in note
