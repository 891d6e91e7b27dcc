"""The folder of a Core ML package: what its manifest may name, and what is no package at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgediff.errors import BundleError, UnsupportedError
from edgediff.mlpackage import open_package
from tests.edgediff import mil_bytes as mil


def test_what_they_all_start_from_is_opened(tmp_path: Path) -> None:
    path = mil.write(tmp_path)
    package = open_package(path)
    inner = path / "Data" / mil.ROOT
    assert package == (path, inner / "model.mlmodel", inner / "weights" / "weight.bin")


@pytest.mark.parametrize(
    "place",
    ["../outside.mlmodel", "/etc/passwd.mlmodel", "a/../../b.mlmodel", "C:\\x.mlmodel", "a//b.mlmodel",
     ".hidden/b.mlmodel", "", "con.mlmodel", "a/./b.mlmodel", "caf\u00e9.mlmodel"],
)  # fmt: skip
def test_f057_items_outside_the_package(place: str, tmp_path: Path) -> None:
    path = mil.write(tmp_path, manifest=mil.listing(root=place))
    with pytest.raises(BundleError, match="no plain path"):
        open_package(path)
    other = mil.write(tmp_path / "other", manifest=mil.listing(weights=place))
    with pytest.raises(BundleError, match="no plain path"):
        open_package(other)


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "{}", "[" * 5000, '{"itemInfoEntries": {}, "rootModelIdentifier": "A"}',
     '{"itemInfoEntries": {"A": 1}, "rootModelIdentifier": "A"}',
     json.dumps({**mil.listing(), "rootModelIdentifier": "Z"}),
     json.dumps({**mil.listing(), "rootModelIdentifier": 1}),
     json.dumps({**mil.listing(), "rootModelIdentifier": "B"}), " " * (2 << 20)],
)  # fmt: skip
def test_f055_manifests_that_are_none(manifest: str, tmp_path: Path) -> None:
    path = mil.write(tmp_path, manifest=manifest)
    if not manifest:
        (path / "Manifest.json").write_text("")
    with pytest.raises(BundleError, match=r"Manifest\.json: ") as caught:
        open_package(path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("missing", ["Manifest.json", f"Data/{mil.ROOT}/model.mlmodel"])
def test_f055_files_that_are_missing(missing: str, tmp_path: Path) -> None:
    path = mil.write(tmp_path)
    (path / missing).unlink()
    with pytest.raises(BundleError, match=Path(missing).name):
        open_package(path)


def test_weights_that_the_manifest_does_not_list(tmp_path: Path) -> None:
    path = mil.write(tmp_path, manifest=mil.listing(weights="elsewhere"))
    with pytest.raises(BundleError, match="does not list"):
        open_package(path)


def test_f056_compiled_models_and_lone_files(tmp_path: Path) -> None:
    compiled = tmp_path / "m.mlmodelc"
    compiled.mkdir()
    with pytest.raises(UnsupportedError, match=r"give the \.mlpackage"):
        open_package(compiled)
    renamed = tmp_path / "renamed.mlpackage"
    renamed.mkdir()
    (renamed / "coremldata.bin").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="compiled"):
        open_package(renamed)
    single = tmp_path / "m.mlmodel"
    single.write_bytes(mil.model())
    with pytest.raises(UnsupportedError, match="one file"):
        open_package(single)
    for path, says in ((tmp_path / "none.mlpackage", "nothing"), (tmp_path / "file.mlpackage", "a file")):
        if says == "a file":
            path.write_text("")
        with pytest.raises(BundleError, match=says):
            open_package(path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize(
    "name", ["Manifest.json", f"Data/{mil.ROOT}/model.mlmodel", f"Data/{mil.ROOT}/weights/weight.bin",
             f"Data/{mil.ROOT}/weights", "Data"],
)  # fmt: skip
def test_f057_links(name: str, tmp_path: Path) -> None:
    path = mil.write(tmp_path)
    outside = tmp_path / "outside"
    (path / name).rename(outside)
    (path / name).symlink_to(outside)
    with pytest.raises(BundleError, match="it is a link"):
        open_package(path)
    assert open_package(path, verified=True).path == path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    path = mil.write(tmp_path)
    file = path / "Data" / mil.ROOT / "model.mlmodel"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BundleError, match="pipe"):
        open_package(path)
