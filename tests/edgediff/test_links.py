"""Links, files that are no files, and files that change while a bundle is in use."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff import links, onnx_scan
from edgediff.bundle import Bundle, GraphSpec
from edgediff.errors import BundleError, IntegrityError
from edgediff.parts import Parts
from edgediff.pipeline import EMBEDDED

pytest.importorskip("onnx")
from tests.hostile import OUT, TENSORS, outside, product

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows"),
]


def picture(folder: Path, **options: Any) -> Any:
    with edgediff.load(folder, **options) as pipe:
        return np.asarray(pipe("a red circle", seed=1, num_inference_steps=1).images[0])


@pytest.fixture(scope="module")
def expected() -> Any:
    return picture(EMBEDDED)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The embedded bundle, a copy of its own."""
    return Path(shutil.copytree(EMBEDDED, tmp_path / "plain"))


def files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file())


def linked(source: Path, target: Path, link: Callable[[Path, Path], None]) -> Path:
    """Rebuild a folder from links to the files of another."""
    for file in files(source):
        made = target / file.relative_to(source)
        made.parent.mkdir(parents=True, exist_ok=True)
        link(file.resolve(), made)
    return target


def by_symlink(file: Path, made: Path) -> None:
    made.symlink_to(file)


def as_hub_cache(plain: Path, cache: Path) -> Path:
    """Lay a bundle out as a hub's cache does: blobs named by number, and links to them."""
    blobs = cache / "blobs"
    blobs.mkdir(parents=True)
    names = iter(range(1000))

    def link(file: Path, made: Path) -> None:
        blob = blobs / f"{next(names):040}"
        shutil.copyfile(file, blob)
        made.symlink_to(os.path.relpath(blob, made.parent))

    return linked(plain, cache / "snapshots" / "main", link)


def weights_alone(plain: Path, target: Path) -> Path:
    """Copy all but the weights, which are links into the other folder."""

    def link(file: Path, made: Path) -> None:
        if file.name.endswith("_data"):
            made.symlink_to(file)
        else:
            shutil.copyfile(file, made)

    return linked(plain, target, link)


def graphs_alone(plain: Path, target: Path) -> Path:
    def link(file: Path, made: Path) -> None:
        if file.name.endswith(".onnx"):
            made.symlink_to(file)
        else:
            shutil.copyfile(file, made)

    return linked(plain, target, link)


def whole_folders(plain: Path, target: Path) -> Path:
    target.mkdir()
    for part in plain.iterdir():
        (target / part.name).symlink_to(part)
    return target


LAYOUTS: dict[str, Callable[[Path, Path], Path]] = {
    "symbolic": lambda plain, to: linked(plain, to, by_symlink),
    "hard": lambda plain, to: linked(plain, to, os.link),
    "hub-cache": as_hub_cache,
    "weights-alone": weights_alone,
    "graphs-alone": graphs_alone,
    "whole-folders": whole_folders,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("verify", [True, False])
def test_f030_f031_links_to_the_right_bytes(
    plain: Path, tmp_path: Path, layout: str, verify: bool, expected: Any
) -> None:
    folder = LAYOUTS[layout](plain, tmp_path / "linked")
    Bundle.open(folder).verify()
    assert np.array_equal(picture(folder, verify=verify), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["unet/ort_cpu.onnx", "unet/model.onnx_data", "tokenizer/tokenizer.json"])
def test_f030_f031_links_to_other_bytes(plain: Path, tmp_path: Path, layout: str, name: str) -> None:
    """They are found also where the caller asked for no verification: links may lead anywhere."""
    folder = LAYOUTS[layout](plain, tmp_path / "linked")
    if not links.is_link(folder / name, name):
        pytest.skip("this file is no link here")
    real = (folder / name).resolve()
    content = bytearray(real.read_bytes())
    content[-1] ^= 1
    real.write_bytes(content)
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
        picture(folder, verify=False)


def test_what_a_link_is(tmp_path: Path) -> None:
    (tmp_path / "real" / "unet").mkdir(parents=True)
    (tmp_path / "real" / "unet" / "a").write_text("a")
    (tmp_path / "whole").symlink_to(tmp_path / "real")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "unet").symlink_to(tmp_path / "real" / "unet")
    assert not links.is_link(tmp_path / "real/unet/a", "unet/a")
    assert not links.is_link(tmp_path / "whole/unet/a", "unet/a")  # the bundle itself may be named by a link
    assert links.is_link(tmp_path / "part/unet/a", "unet/a")
    assert not links.is_link(tmp_path / "nowhere", "nowhere")
    (tmp_path / "again").hardlink_to(tmp_path / "real/unet/a")
    assert links.is_link(tmp_path / "real/unet/a", "unet/a")


def optimum(folder: Path) -> Path:
    """The embedded model as a folder without a manifest."""
    config = {"max_position_embeddings": 32}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    (folder / "edgediff.json").unlink()
    return folder


def test_a_folder_without_a_manifest(plain: Path) -> None:
    assert picture(optimum(plain)).shape == (64, 64, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_f030_f031_links_without_a_manifest(plain: Path, tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](optimum(plain), tmp_path / "linked")
    with pytest.raises(BundleError, match=r"it is a link, .* no manifest .*cp -rL"):
        picture(folder)


def test_f030_a_link_to_a_device(plain: Path) -> None:
    (plain / "unet/model.onnx_data").unlink()
    (plain / "unet/model.onnx_data").symlink_to("/dev/zero")
    for verify in (True, False):
        with pytest.raises(IntegrityError, match="found a device"):
            picture(plain, verify=verify)


@pytest.mark.parametrize("name", ["unet/ort_cpu.onnx", "tokenizer/tokenizer.json"])
def test_f029_a_pipe_is_not_waited_for(plain: Path, name: str) -> None:
    (plain / name).unlink()
    os.mkfifo(plain / name)
    with pytest.raises(IntegrityError, match="found a pipe"):
        picture(plain)
    if name.endswith(".onnx"):  # a tokenizer has other files to read, and they are listed
        with pytest.raises(BundleError, match="found a pipe"):
            picture(plain, verify=False)


def test_a_pipe_that_takes_the_place_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question what it is and its opening."""
    file = tmp_path / "file"
    file.write_text("a")
    opened = os.open

    def swapped(*arguments: Any) -> int:
        file.unlink()
        os.mkfifo(file)
        return opened(*arguments)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(BundleError, match="found a pipe"):
        links.open_regular(file)


def test_names_that_are_no_names(tmp_path: Path) -> None:
    for file in (tmp_path / "a\0b", tmp_path / ("a" * 5000), tmp_path / "nowhere"):
        with pytest.raises(BundleError, match="get the bundle again"):
            links.open_regular(file)


def test_lfs_pointers_are_named(plain: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (plain / "unet/ort_cpu.onnx").write_text(pointer)
    with pytest.raises(IntegrityError, match="git lfs pull"):
        Bundle.open(plain).verify()
    with pytest.raises(BundleError, match="git lfs pull"):
        picture(plain, verify=False)


def other_weights(plain: Path) -> Path:
    """Write weights of the same size and other content beside the bundle."""
    evil = plain.parent / "evil"
    evil.write_bytes(bytes((plain / "text_encoder/model.onnx_data").stat().st_size))
    return evil


def test_f038_swapped_between_the_check_and_the_load(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, evil = plain / "text_encoder/model.onnx_data", other_weights(plain)
    scan = onnx_scan.scan

    def swapping(file: Path, spec: GraphSpec) -> Any:
        evil.replace(good)
        return scan(file, spec)

    monkeypatch.setattr("edgediff.runtimes.onnxruntime.scan", swapping)
    with pytest.raises(IntegrityError, match="changed while it was being loaded"):
        Parts(Bundle.open(plain)).graph("text_encoder")


def test_f038_swapped_and_put_back(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, evil, away = plain / "text_encoder/model.onnx_data", other_weights(plain), plain.parent / "away"
    scan = onnx_scan.scan

    def swapping(file: Path, spec: GraphSpec) -> Any:
        good.rename(away)
        evil.rename(good)
        report = scan(file, spec)
        good.rename(evil)
        away.rename(good)
        return report

    monkeypatch.setattr("edgediff.runtimes.onnxruntime.scan", swapping)
    with pytest.raises(IntegrityError, match="changed while it was being loaded"):
        Parts(Bundle.open(plain)).graph("text_encoder")


def test_f038_a_race(plain: Path) -> None:
    """Another thread swaps good and bad weights without end: only the good ones ever answer."""
    bundle = Bundle.open(plain)
    good, copy = plain / "text_encoder/model.onnx_data", plain.parent / "copy"
    ids = {"input_ids": np.zeros((1, 32), np.int64)}
    right = Parts(bundle).run("text_encoder", ids)["last_hidden_state"]
    content, bad, stop = good.read_bytes(), bytes(good.stat().st_size), threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for data in (bad, content, content, content):
                copy.write_bytes(data)
                copy.replace(good)
                stop.wait(0.004)

    other = threading.Thread(target=swap)
    other.start()
    answers = refusals = 0
    try:
        for _ in range(150):
            parts = Parts(bundle, options={"threads": 1})
            try:
                assert np.allclose(parts.run("text_encoder", ids)["last_hidden_state"], right, atol=1e-4)
                answers += 1
            except IntegrityError:
                refusals += 1
            parts.close()
    finally:
        stop.set()
        other.join()
    assert answers + refusals == 150
    assert refusals


def test_f038_a_file_that_changes_while_it_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("aa")
    hashed = links.hashlib.file_digest

    def writing(stream: Any, name: str) -> Any:
        digest = hashed(stream, name)
        os.utime(file, ns=(1, 1))
        return digest

    monkeypatch.setattr(links.hashlib, "file_digest", writing)
    with pytest.raises(IntegrityError, match="changed while it was being read"):
        links.verified(file, 2, links.hashlib.sha256(b"aa").hexdigest())


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("size", ["same", "shorter", "longer"])
def test_f039_f040_overwritten_while_in_use(plain: Path, verify: bool, manifest: bool, size: str) -> None:
    """The weights are mapped: a file cut short would end the process in the next run."""
    folder = plain if manifest else optimum(plain)
    with edgediff.load(folder, verify=verify) as pipe:
        pipe("a", seed=0, num_inference_steps=1)
        weights = folder / "unet/model.onnx_data"
        whole = weights.stat().st_size
        os.utime(weights, ns=(1, 1))  # as a file is that was written long ago
    with edgediff.load(folder, verify=verify) as pipe:
        pipe("a", seed=0, num_inference_steps=1)
        with weights.open("r+b") as stream:
            stream.write(b"\1")
            stream.truncate({"same": whole, "shorter": whole // 2, "longer": whole + 1}[size])
        with pytest.raises(
            IntegrityError, match=r"unet/model\.onnx_data: it was overwritten .* whole folders"
        ):
            pipe("a", seed=0, num_inference_steps=1)


def test_f040_replaced_while_in_use(plain: Path) -> None:
    """Whoever renames a new folder into place disturbs nobody: the old files live on in the sessions."""
    with edgediff.load(plain) as pipe:
        before = np.asarray(pipe("a", seed=0, num_inference_steps=1).images[0])
        plain.rename(plain.parent / "old")
        assert np.array_equal(np.asarray(pipe("a", seed=0, num_inference_steps=1).images[0]), before)
        (plain / "unet").mkdir(parents=True)
        (plain / "unet/model.onnx_data").write_bytes(b"others")
        assert np.array_equal(np.asarray(pipe("a", seed=0, num_inference_steps=1).images[0]), before)


def test_weights_in_memory_of_several_files(tmp_path: Path) -> None:
    """Links into two folders, one of them to an empty file."""
    from edgediff import runtime

    empty = outside("none", dims=(0, 4), name="e", length="0")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/weights").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    (tmp_path / "a/none").write_bytes(b"")
    (tmp_path / "b").mkdir()
    for name in ("weights", "none"):
        (tmp_path / "b" / name).symlink_to(tmp_path / "a" / name)
    (tmp_path / "b/model.onnx").write_bytes(product(w=outside(), e=empty).SerializeToString())
    spec = GraphSpec("onnxruntime", "p", "model.onnx", "fp32", TENSORS, OUT, ("weights", "none"))
    graph = runtime.find("onnxruntime").load(spec, tmp_path / "b/model.onnx", "cpu", {"threads": 1}, {})
    assert graph({"x": np.float32([[1, 2, 3, 4]])})["y"].tolist() == [[1, 2, 3, 4]]


def test_verification_is_what_it_was(fake_bundle: Path) -> None:
    bundle = Bundle.open(fake_bundle)
    receipts = bundle.verify()
    assert set(receipts) == {fake_bundle / name for name in bundle.files}
    assert all(
        r.bytes == bundle.files[f.relative_to(fake_bundle).as_posix()].bytes for f, r in receipts.items()
    )
