"""The hub client's links are followed where no manifest says what they hold; all others are still refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff import hub as client
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, IntegrityError
from edgediff.hub import links as hub_links
from edgediff.pipeline import EMBEDDED
from tests.hub_server import Hub, etag, folder_files, hub

pytest.importorskip("huggingface_hub")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows"),
]
__all__ = ["hub"]  # the fixture

GRAPH, WEIGHTS = "unet/model.onnx", "unet/model.onnx_data"


def optimum() -> dict[str, bytes]:
    """The embedded model as Optimum would have left it: without a manifest."""
    files = {
        n: d
        for n, d in folder_files(EMBEDDED).items()
        if not n.endswith(("edgediff.json", "parameters.json"))
    }
    return {**files, "text_encoder/config.json": json.dumps({"max_position_embeddings": 32}).encode()}


def picture(folder: Path | str) -> Any:
    with edgediff.load(folder) as pipe:
        return np.asarray(pipe("a red circle", seed=1, num_inference_steps=1).images[0])


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """That model in a hub's cache as the client lays it out."""
    repository = tmp_path / "hub" / "models--org--graphs"
    folder = repository / "snapshots" / ("c" * 40)
    for name, data in optimum().items():
        blob = repository / "blobs" / etag(data)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(os.path.relpath(blob, (folder / name).parent))
    return folder


def shared(link: Path) -> Path:
    """Move the blob of a link to the store that newer clients share between models; where it lies now."""
    blob = link.parent / link.readlink()
    blob = Path(os.path.normpath(blob))
    number = hashlib.blake2b(blob.read_bytes(), digest_size=32).hexdigest()
    store = blob.parents[2] / "blobs" / number[:2] / number
    store.parent.mkdir(parents=True, exist_ok=True)
    blob.rename(store)
    blob.symlink_to(os.path.relpath(store, blob.parent))
    return store


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("plain")
    for name, data in optimum().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return picture(folder)


def test_an_optimum_repository(hub: Hub, expected: Any) -> None:
    """Fetched by the client itself, then opened by name."""
    hub.model("org/graphs", {**optimum(), "unet/diffusion_pytorch_model.bin": b"x" * 4000})
    with pytest.warns(UserWarning, match=r"downloading org/graphs \(onnx"):
        assert np.array_equal(picture("org/graphs"), expected)
    found = client.fetch("org/graphs")
    assert (found.path / WEIGHTS).is_symlink()
    assert not (found.path / "unet/diffusion_pytorch_model.bin").exists()
    assert np.array_equal(picture(found.path), expected)


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
def test_links_of_the_hub(snapshot: Path, name: str, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_links.verified(snapshot / name, name)
    assert np.array_equal(picture(snapshot), expected)
    shared(snapshot / name)
    assert hub_links.verified(snapshot / name, name)
    assert np.array_equal(picture(snapshot), expected)
    monkeypatch.chdir(snapshot.parent)
    assert hub_links.verified(Path(snapshot.name) / name, name)
    monkeypatch.chdir(snapshot)
    assert hub_links.verified(Path(name), name)


@pytest.mark.parametrize("how", ["own", "shared"])
@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
def test_blobs_with_other_bytes(snapshot: Path, name: str, how: str) -> None:
    file = shared(snapshot / name) if how == "shared" else (snapshot / name).resolve()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"it leads to .*, whose content is .*edgediff rm"):
        picture(snapshot)


def test_small_files_have_the_hash_that_git_gives_them(tmp_path: Path) -> None:
    """``git hash-object`` of "hello\\n" is ce013625030ba8dba906f756967f9e9ca394464a."""
    folder = tmp_path / "models--a--b" / "snapshots" / "main"
    blob = tmp_path / "models--a--b" / "blobs" / "ce013625030ba8dba906f756967f9e9ca394464a"
    folder.mkdir(parents=True)
    blob.parent.mkdir()
    blob.write_bytes(b"hello\n")
    (folder / "file").symlink_to(f"../../blobs/{blob.name}")
    assert hub_links.verified(folder / "file", "file")
    blob.write_bytes(b"hullo\n")
    with pytest.raises(IntegrityError):
        hub_links.verified(folder / "file", "file")


def to_other_model(snapshot: Path, file: Path) -> None:
    """Into the blobs of another model."""
    other = snapshot.parents[2] / "models--org--other" / "blobs" / Path(file.readlink()).name
    other.parent.mkdir(parents=True)
    shutil.copyfile(file, other)
    file.unlink()
    file.symlink_to(os.path.relpath(other, file.parent))


def to_outside(snapshot: Path, file: Path) -> None:
    """Out of the cache."""
    other = snapshot.parents[3] / Path(file.readlink()).name
    shutil.copyfile(file, other)
    file.unlink()
    file.symlink_to(other)


def to_snapshot(snapshot: Path, file: Path) -> None:
    """To another file of the snapshot."""
    other = file.with_name("other.onnx")
    other.symlink_to(file.readlink())
    file.unlink()
    file.symlink_to("other.onnx")


def to_plain_name(snapshot: Path, file: Path) -> None:
    """To a blob whose name is no hash."""
    blob = Path(os.path.normpath(file.parent / file.readlink()))
    named = blob.rename(blob.with_name("weights"))
    file.unlink()
    file.symlink_to(os.path.relpath(named, file.parent))


def blob_to_outside(snapshot: Path, file: Path) -> None:
    """To a blob that is a link out of the cache."""
    blob = file.resolve()
    blob.rename(snapshot.parents[3] / "outside")
    blob.symlink_to("../../../outside")


def blob_to_odd_store(snapshot: Path, file: Path) -> None:
    """To a blob that is a link into the shared store, under another name's folder."""
    store = shared(file)
    moved = store.parent.with_name("zz") / store.name
    moved.parent.mkdir()
    store.rename(moved)
    blob = Path(os.path.normpath(file.parent / file.readlink()))
    blob.unlink()
    blob.symlink_to(os.path.relpath(moved, blob.parent))


def blobs_elsewhere(snapshot: Path, file: Path) -> None:
    """To a folder of blobs that is a link."""
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(snapshot.parents[3] / "elsewhere")
    blobs.symlink_to("../../elsewhere")


def folder_elsewhere(snapshot: Path, file: Path) -> None:
    """Through a folder of the snapshot that is a link."""
    other = snapshot.parent / "other"
    other.mkdir()
    file.parent.rename(other / "unet")
    file.parent.symlink_to("../other/unet")


def hard_link(snapshot: Path, file: Path) -> None:
    """A hard link in the place of the file."""
    blob = file.resolve()
    file.unlink()
    file.hardlink_to(blob)


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
@pytest.mark.parametrize(
    "change",
    [
        to_other_model, to_outside, to_snapshot, to_plain_name, blob_to_outside, blob_to_odd_store,
        blobs_elsewhere, folder_elsewhere, hard_link,
    ],
)  # fmt: skip
def test_other_links_are_refused(snapshot: Path, name: str, change: Any) -> None:
    change(snapshot, snapshot / name)
    assert (snapshot / name).is_file()
    assert not hub_links.verified(snapshot / name, name)
    with pytest.raises(BundleError, match=r"it is a link, .* no manifest .*cp -rL"):
        picture(snapshot)


@pytest.mark.parametrize("renamed", ["snapshots", "models--org--graphs"])
def test_the_layout_is_the_hub_clients(snapshot: Path, renamed: str) -> None:
    place = snapshot.parent if renamed == "snapshots" else snapshot.parents[1]
    moved = place.rename(place.with_name("other"))
    folder = moved / snapshot.relative_to(place)
    assert not hub_links.verified(folder / GRAPH, GRAPH)
    with pytest.raises(BundleError, match="it is a link"):
        picture(folder)


def test_missing_blobs(snapshot: Path) -> None:
    (snapshot / WEIGHTS).resolve().unlink()
    with pytest.raises(BundleError, match="no such file"):
        hub_links.verified(snapshot / WEIGHTS, WEIGHTS)


@pytest.mark.parametrize("where", ["plain", "/unet/model.onnx", "/model.onnx", "nowhere/unet/model.onnx"])
def test_plain_files_are_no_links(tmp_path: Path, where: str) -> None:
    assert not hub_links.verified(tmp_path / where, "unet/model.onnx")


def test_shared_blobs_of_a_bundle(hub: Hub) -> None:
    """With a manifest its sha256 decides, whatever the links are; ONNX Runtime reads behind two of them."""
    hub.model("org/shapes", folder_files(EMBEDDED))
    folder = client.fetch("org/shapes").path
    for name in (GRAPH, WEIGHTS, "text_encoder/model.onnx_data"):
        shared(folder / name)
    Bundle.open(folder).verify()
    assert np.array_equal(picture(folder), picture(EMBEDDED))
