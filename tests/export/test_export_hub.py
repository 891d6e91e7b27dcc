"""Export straight from the hub: the manifest's origin names the model and the commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from export_helpers import model_folder
from original_layout import kind_folder, single_file

from edgediff.errors import InputError
from edgediff.export.main import export_onnx
from edgediff.export.sources import FolderSource, open_source
from tests.hub_server import Hub, folder_files, hub

pytestmark = pytest.mark.slow

pytest.importorskip("huggingface_hub")
__all__ = ["hub"]  # the fixture


def test_a_model_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    card = b"---\nlicense: openrail\n---\n"
    commit = hub.model("org/tiny", {**folder_files(folder), "README.md": card, "junk.bin": b"x" * 4000})
    said: list[str] = []
    source = open_source("org/tiny", report=said.append)
    assert isinstance(source, FolderSource)
    assert (source.label, source.revision, source.license) == ("org/tiny", commit, "openrail")
    assert len(said) == 1
    assert not (source.where / "junk.bin").exists()
    local = open_source(str(folder))
    names = ("text_encoder", "unet", "vae")
    for name in names:
        classes = (str(source.class_of(name)),)
        here, there = local.component(name, classes), source.component(name, classes)
        assert here.config == there.config
        assert here.tensors.entries.keys() == there.tensors.entries.keys()
        for tensor in here.tensors.entries:
            assert (here.tensors.whole(tensor) == there.tensors.whole(tensor)).all()
    asked = len(hub.asked)
    assert open_source(f"org/tiny@{commit[:40]}").revision == commit
    assert open_source("org/tiny", revision="main").revision == commit
    assert len(hub.asked) == asked


def test_the_manifest_names_model_and_commit(hub: Hub, tmp_path: Path) -> None:
    files = folder_files(model_folder(tmp_path / "model"))
    old = hub.model("org/tiny", {**files, "README.md": b"---\nlicense: openrail\n---\n"})
    hub.model("org/tiny", {**files, "README.md": b"---\nlicense: other\n---\n"})
    export_onnx(f"org/tiny@{old}", str(tmp_path / "out"), verify=False)
    origin = json.loads((tmp_path / "out" / "edgediff.json").read_text(encoding="utf-8"))["origin"]
    assert origin == {"source": "org/tiny", "revision": old, "license": "openrail"}


def test_one_file_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    file = single_file(tmp_path / "a.safetensors", kind_folder(tmp_path / "folder", "sd1"))
    commit = hub.model("org/file", {"a.safetensors": file.read_bytes(), "a.ckpt": b"x" * 4000})
    source = open_source("org/file")
    assert (source.label, source.revision, source.pipeline) == ("org/file", commit, "StableDiffusionPipeline")
    assert source.component("vae", ("AutoencoderKL",)).tensors.entries.keys()
    assert not list((tmp_path / "home").rglob("a.ckpt"))


def test_revisions_are_for_the_hub(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="revisions are for models on the hub"):
        open_source(str(model_folder(tmp_path / "model")), revision="main")
    hub.model("org/tiny", folder_files(tmp_path / "model"))
    with pytest.raises(InputError, match="no revision 'v1'"):
        open_source("org/tiny", revision="v1")
    assert not [path for _, path, _ in hub.asked if "resolve" in path]
