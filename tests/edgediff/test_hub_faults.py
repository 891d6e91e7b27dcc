"""What goes wrong between a hub and its cache, and what is said of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgediff import hub as client
from edgediff.bundle import Bundle
from edgediff.errors import (
    BundleError,
    CancelledError,
    EdgediffError,
    InputError,
    IntegrityError,
    ResourceError,
    UnsupportedError,
)
from edgediff.hub import cache as hub_cache
from edgediff.hub import errors as hub_errors
from edgediff.hub import stall as hub_stall
from tests.hub_server import Hub, folder_files, hub

pytestmark = pytest.mark.slow

pytest.importorskip("huggingface_hub")
__all__ = ["hub"]  # the fixture

DIFFUSERS = {
    "model_index.json": b'{"_class_name": "P", "unet": ["diffusers", "U"]}',
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": bytes(5000),
}


@pytest.fixture
def published(hub: Hub, fake_bundle: Path) -> str:
    """Publish the fake bundle, and more files than its manifest lists, as ``org/bundle``; its commit."""
    return hub.model(
        "org/bundle", {**folder_files(fake_bundle), "README.md": b"# A card", "big.bin": b"x" * 9000}
    )


def refused(hub: Hub, **options: Any) -> Callable[[], object]:
    hub.model("org/x", DIFFUSERS, **options)
    return lambda: client.fetch("org/x", "export")


def test_gated_models_say_what_to_do(hub: Hub) -> None:
    with pytest.raises(InputError, match=r"accept their terms.*https://huggingface.co/org/x.*hf auth login"):
        refused(hub, gated=True)()


def test_private_and_missing_models(hub: Hub) -> None:
    for call in (refused(hub, token="hf_secretsecretsecret"), lambda: client.fetch("org/nowhere")):
        with pytest.raises(InputError, match=r"neither a folder here nor a model on the hub.*HF_TOKEN"):
            call()


def test_tokens_are_sent_and_never_shown(hub: Hub, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    token, wrong = "hf_" + "s" * 34, "hf_" + "w" * 34
    hub.model("org/x", DIFFUSERS, token=token)
    with pytest.raises(InputError) as told:
        client.fetch("org/x", "export", token=wrong)
    found = client.fetch("org/x", "export", token=token)
    assert found.path.is_dir()
    assert {sent for _, _, sent in hub.asked} == {f"Bearer {wrong}", f"Bearer {token}"}
    shown = "".join(capfd.readouterr()) + str(told.value) + repr(told.value.__cause__)
    kept = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    for secret in (token, wrong):
        assert secret not in shown
        assert secret.encode() not in kept


def test_unknown_revisions(hub: Hub, published: str) -> None:
    with pytest.raises(InputError, match="no revision 'v9'"):
        client.fetch("org/bundle@v9")


def test_no_network(hub: Hub, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = client.fetch("org/bundle")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(
            "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}"
        )
        with pytest.raises(UnsupportedError, match=r"could not be reached.*connection"):
            client.fetch("org/other")
        assert client.fetch("org/bundle") == found


def test_a_hub_that_breaks_off(
    hub: Hub, published: str, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries again, ever more slowly
    hub.cut["tokenizer/vocab.json"] = 1000
    with pytest.raises(EdgediffError, match="whole stay in the cache") as told:
        client.fetch("org/bundle")
    assert isinstance(told.value, (UnsupportedError, IntegrityError))
    assert client.cached("org/bundle", None, "run") is None
    del hub.cut["tokenizer/vocab.json"]
    asked = len(hub.asked)
    client.fetch("org/bundle")
    again = {path for method, path, _ in hub.asked[asked:] if method == "GET"}
    assert not any("scheduler" in path for path in again)  # it was whole
    Bundle.open(client.fetch("org/bundle").path).verify()


@pytest.mark.filterwarnings("ignore:Not enough free disk space:UserWarning")  # the client's own
def test_a_full_disk(hub: Hub, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("edgediff.hub.shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ResourceError, match=r"org/bundle: needs .* has 1 kB left; .*HF_HOME"):
        client.fetch("org/bundle")
    assert not any("resolve" in path and "edgediff.json" not in path for _, path, _ in hub.asked)


def test_a_manifest_that_lies(hub: Hub, fake_bundle: Path) -> None:
    files = folder_files(fake_bundle)
    del files["unet/model.onnx"]
    hub.model("org/lost", files)
    with pytest.raises(BundleError, match=r"lists unet/model\.onnx, which is not there"):
        client.fetch("org/lost")
    manifest = json.loads(files["edgediff.json"])
    manifest["files"]["../../evil"] = {"bytes": 1, "sha256": "0" * 64}
    hub.model("org/evil", {**files, "edgediff.json": json.dumps(manifest).encode()})
    with pytest.raises(BundleError, match="no plain path"):
        client.fetch("org/evil")


def test_an_index_without_end(hub: Hub) -> None:
    hub.model("org/x", {**DIFFUSERS, "model_index.json": b" " * (1 << 20) + b"{}"})
    with pytest.raises(BundleError, match=r"model_index\.json has 1048578 bytes"):
        client.fetch("org/x", "export")
    assert not [path for _, path, _ in hub.asked if "resolve" in path]


@pytest.mark.parametrize("index", [b"[]", b"{", b'"text"', b"\xff"])
def test_a_damaged_index(hub: Hub, index: bytes) -> None:
    hub.model("org/x", {**DIFFUSERS, "model_index.json": index})
    with pytest.raises(BundleError):
        client.fetch("org/x", "export")


def test_the_client_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    for call in (lambda: client.fetch("org/name"), hub_cache.entries):
        with pytest.raises(UnsupportedError, match="pip install huggingface_hub"):
            call()


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), ResourceError, "/x/y cannot be written"),
        (OSError(errno.EROFS, "Read-only file system"), ResourceError, "cannot be written"),
        (OSError("Consistency check failed: file should be of size 9"), IntegrityError, "arrived incomplete"),
        (
            RuntimeError("stream https://cdn/x?Signature=abc hf_abcdefghij"),
            UnsupportedError,
            "https://cdn/x ",
        ),
        (KeyboardInterrupt(), CancelledError, "interrupted; .*edgediff pull"),
        (InputError("as it was"), InputError, "^as it was$"),
    ],
)
def test_other_faults(error: BaseException, kind: type[EdgediffError], says: str) -> None:
    with pytest.raises(kind, match=says) as told, hub_errors.translated("org/x", None):
        raise error
    assert "Signature" not in str(told.value)
    assert "hf_abc" not in str(told.value)


def test_a_download_that_stands_still(tmp_path: Path) -> None:
    said: list[str] = []
    told = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        told.set()

    with hub_stall.watched(tmp_path, say, 0.02):
        assert told.wait(10)
    assert len(said) == 1
    assert "HF_HUB_DISABLE_XET=1" in said[0]
    with hub_stall.watched(tmp_path / "nowhere", said.append, 60):
        pass
    assert len(said) == 1


def test_telemetry_is_off_unless_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgediff.hub import client as hub_client

    for given, expected in ((None, "1"), ("0", "0")):
        monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
        if given is not None:
            monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", given)
        hub_client.load()
        assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == expected
