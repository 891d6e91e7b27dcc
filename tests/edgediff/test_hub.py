"""Bundles and models from a hub that runs on this machine: what is asked, what is kept, what is said."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import edgediff
from edgediff import hub as client
from edgediff.bundle import Bundle
from edgediff.errors import (
    BundleError,
    InputError,
    UnsupportedError,
)
from edgediff.hub import cache as hub_cache
from tests.hub_server import Hub, folder_files, hub, switch_off

pytestmark = pytest.mark.slow

pytest.importorskip("huggingface_hub")
__all__ = ["hub"]  # the fixture

DIFFUSERS = {
    "README.md": b"---\nlicense: mit\n---\n",
    "model_index.json": b'{"_class_name": "P", "unet": ["diffusers", "U"], "scheduler": ["diffusers", "S"]}',
    "scheduler/scheduler_config.json": b"{}",
    "unet/config.json": b'{"b": 12}',
    "unet/diffusion_pytorch_model.safetensors": bytes(5000),
    "unet/diffusion_pytorch_model.fp16.safetensors": bytes(2500),
    "unet/diffusion_pytorch_model.bin": bytes(5001),
    "whole.safetensors": bytes(9000),
}


@pytest.fixture
def published(hub: Hub, fake_bundle: Path) -> str:
    """Publish the fake bundle, and more files than its manifest lists, as ``org/bundle``; its commit."""
    return hub.model(
        "org/bundle", {**folder_files(fake_bundle), "README.md": b"# A card", "big.bin": b"x" * 9000}
    )


@pytest.mark.parametrize(
    "text", ["org/name", "a/b@main", "a-b/c.d_e@refs/pr/1", "a/b@0123abc", "models/sd.bundle"]
)
def test_names_on_the_hub(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert client.is_hub_id(text)
    repo, revision = client.split_id(text)
    assert "@".join(part for part in (repo, revision) if part) == text
    (tmp_path / text).mkdir(parents=True)
    assert not client.is_hub_id(text)  # what exists is a path


@pytest.mark.parametrize(
    "text",
    [
        "", "name", "./a/b", "../a/b", "/a/b", "~/a/b", "a/b/c", "a//b", "a/", "/b", "a/..", "a/b@", "a/b@..",
        "a/b@x/../y", "a--b/c", "a/b..c", "a/b.git", ".a/b", "a/-b", "a/b-", "a b/c", "é/b", "a\\b", "C:/a",
        "a/b@-x", "a/b\n", "x" * 97 + "/b", None, 7, Path("a/b"),
    ],
)  # fmt: skip
def test_what_is_no_name_on_the_hub(text: Any) -> None:
    assert not client.is_hub_id(text)
    with pytest.raises(InputError, match="no name on the hub"):
        client.split_id(str(text) if not isinstance(text, Path) else "a")


def test_a_broken_link_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").symlink_to("nowhere")
    assert not client.is_hub_id("a/b")


def test_two_revisions() -> None:
    assert client.split_id("a/b@x", "x") == ("a/b", "x")
    with pytest.raises(InputError, match="two revisions"):
        client.split_id("a/b@x", "y")


def test_local_paths_open_no_socket(fake_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr("edgediff.hub.client.load", connect)
    monkeypatch.chdir(fake_bundle.parent.parent)
    relative = fake_bundle.relative_to(fake_bundle.parent.parent).as_posix()
    assert relative.count("/") == 1  # as a name on the hub has
    for path in (relative, str(fake_bundle), f"./{relative}"):
        with edgediff.load(path, runtime="null") as pipe:
            pipe("a", seed=0)
    with pytest.raises(BundleError, match="no such folder"):
        edgediff.load("./no/where")


def test_a_bundle(hub: Hub, published: str, fake_bundle: Path) -> None:
    """Exactly the files that its manifest lists are fetched, once."""
    said: list[str] = []
    found = client.fetch("org/bundle", say=said.append)
    assert (found.repo, found.commit, found.kind) == ("org/bundle", published, "bundle")
    listed = {"edgediff.json", *Bundle.open(fake_bundle).files}
    assert set(folder_files(found.path)) == listed
    assert len(said) == 1
    assert said[0].startswith("downloading org/bundle (bundle, ")
    Bundle.open(found.path).verify()
    asked = len(hub.asked)
    assert client.fetch("org/bundle", say=said.append) == found
    assert client.fetch(f"org/bundle@{published}") == found
    assert (len(hub.asked), len(said)) == (asked, 1)
    assert found.path.resolve() == found.path.absolute()  # the folder is none of the links
    assert (found.path / "edgediff.json").is_symlink() or sys.platform == "win32"


def test_loading_by_name(hub: Hub, published: str) -> None:
    with pytest.warns(UserWarning, match="downloading org/bundle") as told, \
            edgediff.load("org/bundle", runtime="null") as pipe:  # fmt: skip
        assert pipe("a", seed=0, num_inference_steps=1).images[0].size == (32, 32)
        assert published in str(pipe.bundle.path)
    assert told[0].filename == __file__


def test_a_plan_writes_nothing(hub: Hub, published: str, tmp_path: Path) -> None:
    found = client.plan("org/bundle")
    assert found.missing_bytes == found.bytes == sum(found.files.values())
    assert set(found.missing) == set(found.files)
    assert not list((tmp_path / "home").rglob("*.json"))
    client.pull(found)
    assert client.plan("org/bundle").missing == ()


def test_offline(hub: Hub, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    switch_off(monkeypatch, True)
    with pytest.raises(UnsupportedError, match=r"org/bundle: no folder here.*HF_HUB_OFFLINE.*edgediff pull"):
        client.fetch("org/bundle")
    switch_off(monkeypatch, False)
    found = client.fetch("org/bundle")
    switch_off(monkeypatch, True)
    asked = len(hub.asked)
    assert client.fetch("org/bundle") == found
    with pytest.raises(UnsupportedError, match="at revision other"):
        client.fetch("org/bundle@other")
    (found.path / "vae_decoder" / "model.onnx").unlink()
    with pytest.raises(UnsupportedError, match="not wholly"):
        client.fetch("org/bundle")
    assert len(hub.asked) == asked


def test_what_is_missing_is_fetched_again(hub: Hub, published: str) -> None:
    found = client.fetch("org/bundle")
    lost = found.path / "tokenizer" / "vocab.json"
    blob = lost.resolve()
    lost.unlink()
    blob.unlink()
    said: list[str] = []
    assert client.fetch("org/bundle", say=said.append) == found
    assert lost.is_file()
    assert said[0].endswith(" in 1 file)")


def test_a_newer_commit(hub: Hub, published: str, fake_bundle: Path) -> None:
    old = client.fetch("org/bundle")
    new = hub.model("org/bundle", {**folder_files(fake_bundle), "README.md": b"# Another card"})
    assert client.fetch("org/bundle").commit == published  # what is cached is used
    found = client.pull(client.plan("org/bundle"))
    assert found.commit == new
    assert client.fetch("org/bundle").path == found.path != old.path
    assert client.fetch(f"org/bundle@{published}").path == old.path


def test_a_model_to_export(hub: Hub) -> None:
    hub.model("org/sd", DIFFUSERS)
    found = client.fetch("org/sd", "export")
    assert found.kind == "diffusers"
    weights = "unet/diffusion_pytorch_model.safetensors"
    unwanted = {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "whole.safetensors",
    }
    assert set(folder_files(found.path)) == set(DIFFUSERS) - unwanted
    asked = len(hub.asked)
    assert client.fetch("org/sd", "export") == found
    assert len(hub.asked) == asked
    client.fetch("org/sd", "export", variant="fp16")
    assert {
        path.rpartition("/")[2] for method, path, _ in hub.asked[asked:] if method == "GET" and "safe" in path
    } == {"diffusion_pytorch_model.fp16.safetensors"}
    (found.path / weights).unlink()
    assert client.cached("org/sd", None, "export", None) is not None  # the other variant is whole
    (found.path / "scheduler" / "scheduler_config.json").unlink()
    assert client.cached("org/sd", None, "export", None) is None
    with pytest.raises(
        InputError, match=r"no bundle but a diffusers model; .*edgediff export onnx -m org/sd OUT"
    ):
        client.fetch("org/sd", "run")


def test_a_single_file(hub: Hub) -> None:
    hub.model("org/file", {"a.safetensors": bytes(3000), "a.ckpt": bytes(3000), "README.md": b"card"})
    found = client.fetch("org/file", "export")
    assert found.kind == "single file"
    assert found.path.name == "a.safetensors"
    assert client.cached("org/file", None, "export") == found


def test_a_bundle_is_not_exported(hub: Hub, published: str) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="a bundle already"):
            client.fetch("org/bundle", "export")
        client.fetch("org/bundle")


def test_listing_and_removing(hub: Hub, published: str) -> None:
    assert hub_cache.entries() == []
    with pytest.raises(InputError, match="not in the hub's cache"):
        hub_cache.removal("org/bundle")
    hub.model("org/sd", DIFFUSERS)
    client.fetch("org/bundle")
    first = client.fetch("org/sd", "export")
    second = hub.model("org/sd", {**DIFFUSERS, "unet/config.json": b'{"a": 1}'})
    client.pull(client.plan("org/sd", purpose="export"))
    found = {(e.repo, e.commit): e for e in hub_cache.entries()}
    assert {(e.repo, e.kind) for e in found.values()} == {("org/bundle", "bundle"), ("org/sd", "diffusers")}
    assert found["org/sd", second].refs == ("main",)
    assert found["org/sd", first.commit].refs == ()
    entry = found["org/bundle", published]
    assert entry.bytes == sum(len(data) for data in set(folder_files(entry.path).values()))
    with pytest.raises(InputError, match="no revision 'v2' is cached"):
        hub_cache.removal("org/sd@v2")
    removal = hub_cache.removal("org/sd", first.commit[:10])
    assert removal.commits == (first.commit,)
    assert removal.freed == len(DIFFUSERS["unet/config.json"])  # the one file that differs
    removal.execute()
    assert not first.path.exists()
    assert client.cached("org/sd", None, "export") is not None
    hub_cache.removal("org/sd").execute()
    assert [e.repo for e in hub_cache.entries()] == ["org/bundle"]
