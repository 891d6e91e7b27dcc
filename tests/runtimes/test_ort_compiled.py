"""What OpenVINO compiled is kept and read again: the same numbers, and never a damaged blob."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff import cache_folder
from edgediff.runtimes import _ort_compiled as compiled

real = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_ep_openvino") is None,
    reason="onnxruntime-ep-openvino is not installed",
)
KEY = {"kind": "openvino", "graph": "x"}


class Plugin:
    """Writes a blob where it finds none, as the plug-in does, and says which folder it was given."""

    def __init__(self, refuses: bool = False) -> None:
        self.told: list[str | None] = []
        self.refuses = refuses

    def __call__(self, hints: Mapping[str, str]) -> str:
        folder = hints.get("CACHE_DIR")
        self.told.append(folder)
        if folder is None:
            return "compiled"
        blob = Path(folder) / "1.blob"
        if not blob.exists():
            blob.write_bytes(b"kernels")
            return "compiled"
        if self.refuses:
            raise RuntimeError("import failed")
        return "read"


def test_a_blob_is_made_once(tmp_path: Path) -> None:
    plugin = Plugin()
    assert compiled.session(tmp_path, KEY, 0, plugin) == ("compiled", "made")
    assert compiled.session(tmp_path, KEY, 0, plugin) == ("read", "found")
    assert compiled.session(tmp_path, {**KEY, "graph": "y"}, 0, plugin) == ("compiled", "made")


def test_a_damaged_blob_is_not_handed_over(tmp_path: Path) -> None:
    compiled.session(tmp_path, KEY, 0, Plugin())
    assert compiled.session(tmp_path, KEY, 0, Plugin())[1] == "found"  # so it was hashed
    (blob,) = tmp_path.rglob("*.blob")
    time.sleep(0.05)  # file systems tell times apart by some milliseconds
    blob.write_bytes(b"kernelz")
    assert compiled.session(tmp_path, KEY, 0, Plugin()) == ("compiled", "made")


def test_a_refused_blob_costs_a_compilation_alone(tmp_path: Path) -> None:
    compiled.session(tmp_path, KEY, 0, Plugin())
    session, kept = compiled.session(tmp_path, KEY, 0, Plugin(refuses=True))
    assert (session, kept) == ("compiled", "not kept: the blob was refused")
    assert not list(tmp_path.rglob("*.blob"))


def test_a_full_disk_keeps_nothing(tmp_path: Path) -> None:
    plugin = Plugin()
    assert compiled.session(tmp_path, KEY, 1 << 60, plugin) == (
        "compiled", "not kept: the disk is too full",
    )  # fmt: skip
    assert plugin.told == [None]


def test_a_folder_that_cannot_be_written_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / cache_folder.ENTRIES).write_text("in the way")
    with pytest.warns(UserWarning, match="nothing can be kept there"):
        session, kept = compiled.session(tmp_path, KEY, 0, Plugin())
    assert (session, kept) == ("compiled", "not kept: the folder cannot be written")


def test_facts_tell_what_a_blob_depends_on() -> None:
    base = {"threads": 1, "extents": {}, "precision": None}
    others = [base, {**base, "threads": 2}, {**base, "precision": "bf16"}, {**base, "extents": {"h": 8}}]
    names = {cache_folder.key(compiled.facts("x", each)) for each in others}
    names.add(cache_folder.key(compiled.facts("y", base)))
    assert len(names) == 5


@real
def test_the_plug_in_reads_what_it_wrote(onnx_bundle: Path, tmp_path: Path) -> None:
    def draw(cache: Any) -> tuple[Any, set[str]]:
        with edgediff.load(onnx_bundle, device="openvino", threads=1, cache=cache) as pipe:
            drawn = pipe("a", seed=0, output_type="np").images
            return drawn, {info.cache for info in pipe.infos().values()}

    plain, kept = draw(False)
    assert kept == {""}
    first, kept = draw(tmp_path)
    assert kept == {"made"}
    second, kept = draw(tmp_path)
    assert kept == {"found"}
    assert np.array_equal(plain, first)
    assert np.array_equal(first, second)
    for blob in tmp_path.rglob("*.blob"):
        blob.chmod(0o600)
        blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    third, kept = draw(tmp_path)
    assert kept == {"made"}
    assert np.array_equal(first, third)
