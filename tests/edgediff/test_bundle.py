"""Opening and verifying bundles whose files are damaged, missing or hostile."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest

import edgediff
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, IntegrityError
from tests import tiny


@pytest.fixture
def folder(fake_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(fake_bundle, tmp_path / "bundle"))


def test_a_whole_bundle(folder: Path) -> None:
    bundle = Bundle.open(folder)
    bundle.verify()
    assert bundle.path == folder
    assert bundle.defaults.size == {"height": 32, "width": 32}
    assert [spec.file for spec in bundle.components["denoiser"]] == ["unet/model.onnx"]
    assert bundle.text is not None
    assert bundle.text.length == tiny.LENGTH


@pytest.mark.parametrize("name", ["nowhere", "file", "x" * 5000, "nul\0inside"])
def test_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("{}")
    with pytest.raises(BundleError):
        Bundle.open(tmp_path / name)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"neither edgediff\.json nor model_index\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "JSON"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"\xff\xfe{\0}\0", "JSON"),
        (b"[" * 200_000, "nested"),
        (b'{"a":' * 200_000, "nested"),
        (b'["' + b'\\"' * 400_000, "JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "digits"),
        (b"{" + b",".join(b'"%d": 0' % (i % 60_000) for i in range(60_001)) + b"}", "twice"),
    ],
    ids=["empty", "mark", "utf16", "lists", "objects", "open-string", "digits", "last-key-twice"],
)
def test_a_manifest_that_is_no_json(folder: Path, content: bytes, says: str) -> None:
    (folder / "edgediff.json").write_bytes(content)
    began = time.monotonic()
    with pytest.raises(BundleError, match=says):
        Bundle.open(folder)
    assert time.monotonic() - began < 10  # none of them may hang


def test_a_manifest_that_is_a_folder(folder: Path) -> None:
    (folder / "edgediff.json").unlink()
    (folder / "edgediff.json").mkdir()
    with pytest.raises(BundleError, match="no such file"):
        Bundle.open(folder)


def test_a_huge_manifest_is_not_read(folder: Path) -> None:
    with (folder / "edgediff.json").open("wb") as stream:
        stream.truncate(1 << 30)  # sparse: takes no room on the disk
    with pytest.raises(BundleError, match="more than the 1048576 allowed"):
        Bundle.open(folder)


def test_unknown_fields_and_minor_versions_are_let_be(folder: Path) -> None:
    value = json.loads((folder / "edgediff.json").read_text())
    value |= {"format_version": "1.9999", "new": {"deep": [1, {"a": None}]}}
    (folder / "edgediff.json").write_text(json.dumps(value))
    assert Bundle.open(folder).format_version == "1.9999"


def test_each_file_missing_in_turn(folder: Path) -> None:
    bundle = Bundle.open(folder)
    for name in bundle.files:
        (folder / name).rename(folder / "away")
        with pytest.raises(IntegrityError, match=name):
            bundle.verify()
        (folder / "away").rename(folder / name)
    bundle.verify()


def test_each_file_changed_in_turn(folder: Path) -> None:
    bundle = Bundle.open(folder)
    for name, record in bundle.files.items():
        content = (folder / name).read_bytes()
        for changed in (content[:-1], content + b" ", bytes([content[0] ^ 1]) + content[1:]):
            (folder / name).write_bytes(changed)
            with pytest.raises(IntegrityError) as caught:
                bundle.verify()
            message = str(caught.value)
            assert name in message
            assert record.sha256 in message or str(record.bytes) in message
        (folder / name).write_bytes(content)
    bundle.verify()


def test_one_flipped_bit_is_found_wherever_it_is(folder: Path) -> None:
    bundle = Bundle.open(folder)
    file = folder / "tokenizer/tokenizer.json"
    content, draw = file.read_bytes(), random.Random(0)
    for offset in (draw.randrange(len(content)) for _ in range(100)):
        changed = bytearray(content)
        changed[offset] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(IntegrityError, match="sha256"):
            bundle.verify(("tokenizer/tokenizer.json",))


def test_files_are_verified_before_they_are_used(folder: Path) -> None:
    (folder / "unet/model.onnx").write_bytes(b"bad bits")
    with pytest.raises(IntegrityError, match=r"unet/model\.onnx"):
        edgediff.load(folder, runtime="null")("a", seed=0)
    edgediff.load(folder, runtime="null", verify=False)("a", seed=0)


def test_every_file_of_the_tokenizer_is_verified(folder: Path) -> None:
    (folder / "tokenizer/tokenizer_config.json").write_text('{"bos_token": "a</w>"}')
    with pytest.raises(IntegrityError, match="tokenizer_config"):
        edgediff.load(folder, runtime="null")("a", seed=0)


def test_a_missing_role_is_named(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"no graph for encoder; the bundle has text_encoder"):
        bundle.graph("encoder")
    with pytest.raises(BundleError, match="denoiser for coreml"):
        bundle.graph("denoiser", "coreml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_no_manifest(folder: Path) -> None:
    (folder / "edgediff.json").unlink()
    os.mkfifo(folder / "edgediff.json")
    with pytest.raises(BundleError, match="no such file"):
        Bundle.open(folder)
