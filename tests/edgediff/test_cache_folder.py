"""The folder of what can be made again: whole entries alone, by content, within a bound."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgediff import cache_folder, digests
from edgediff.cli.cache import command
from edgediff.errors import InputError, ResourceError
from edgediff.links import Receipt, verified

SHA_OF_BLOB = "fa2c8cc4f28176bbeed4b736df569a34c79cd3723e9ec42f9674b4d46ac6b8b8"  # of b"blob", by sha256sum


def keep(folder: Path, name: str = "a" * 32, content: bytes = b"blob") -> Path:
    def write(fresh: Path) -> None:
        (fresh / "x.blob").write_bytes(content)

    cache_folder.make(folder, name, {"kind": "test"}, write)
    return folder / cache_folder.ENTRIES / name


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    assert cache_folder.find(tmp_path, "a" * 32) is None
    path = keep(tmp_path)
    assert cache_folder.find(tmp_path, "a" * 32) == path
    assert (path / "x.blob").read_bytes() == b"blob"
    receipt = json.loads((path / cache_folder.RECEIPT).read_text())
    assert receipt["files"] == {"x.blob": {"bytes": 4, "sha256": SHA_OF_BLOB}}


@pytest.mark.parametrize("damage", ["bytes", "size", "gone", "beside", "receipt", "foreign"])
def test_a_damaged_entry_is_removed_not_read(tmp_path: Path, damage: str) -> None:
    path = keep(tmp_path)
    {
        "bytes": lambda: (path / "x.blob").write_bytes(b"blot"),
        "size": lambda: (path / "x.blob").write_bytes(b"blobs"),
        "gone": lambda: (path / "x.blob").unlink(),
        "beside": lambda: (path / "y.blob").write_bytes(b"other"),
        "receipt": lambda: (path / cache_folder.RECEIPT).write_text("{"),
        "foreign": lambda: (path / cache_folder.RECEIPT).write_text('{"facts": {}, "files": {"../x": {}}}'),
    }[damage]()
    assert cache_folder.find(tmp_path, "a" * 32) is None
    assert not path.exists()
    assert cache_folder.find(tmp_path, "a" * 32) is None
    assert keep(tmp_path) == path
    assert cache_folder.find(tmp_path, "a" * 32) == path


def test_hashing_can_end_after_the_call(tmp_path: Path) -> None:
    def write(fresh: Path) -> None:
        (fresh / "x.blob").write_bytes(b"blob")

    cache_folder.make(tmp_path, "a" * 32, {}, write, later=True)
    assert cache_folder.find(tmp_path, "a" * 32) is not None
    assert cache_folder.find(tmp_path, "a" * 32) is not None


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def write(fresh: Path) -> None:
        (fresh / "x.blob").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_folder.make(tmp_path, "a" * 32, {}, write)
    assert list((tmp_path / cache_folder.ENTRIES).iterdir()) == []


def test_two_writers_at_once(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def write(fresh: Path) -> None:
        (fresh / "x.blob").write_bytes(b"blob")
        both.wait(5)

    made = [threading.Thread(target=cache_folder.make, args=(tmp_path, "a" * 32, {}, write)) for _ in "ab"]
    for each in made:
        each.start()
    for each in made:
        each.join()
    assert cache_folder.find(tmp_path, "a" * 32) is not None
    assert [path.name for path in (tmp_path / cache_folder.ENTRIES).iterdir()] == ["a" * 32]


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        path = keep(tmp_path, name, b"x" * 1000)
        os.utime(path / cache_folder.RECEIPT, (1e9 - age, 1e9 - age))
    assert [entry.path.name for entry in cache_folder.entries(tmp_path)] == ["old", "middle", "new"]
    assert cache_folder.find(tmp_path, "old") is not None  # and is the last used one now
    size = cache_folder.entries(tmp_path)[0].bytes
    cache_folder.trim(tmp_path, limit=2 * size)
    assert [entry.path.name for entry in cache_folder.entries(tmp_path)] == ["new", "old"]
    cache_folder.trim(tmp_path, limit=0, keep=tmp_path / cache_folder.ENTRIES / "new")
    assert [entry.path.name for entry in cache_folder.entries(tmp_path)] == ["new"]


def test_keys_tell_facts_apart() -> None:
    base = {"graph": "x", "threads": 2, "extents": {"h": 8, "w": 4}}
    assert cache_folder.key(base) == cache_folder.key(
        {"extents": {"w": 4, "h": 8}, "threads": 2, "graph": "x"}
    )
    others = [{**base, "threads": 1}, {**base, "extents": {"h": 4, "w": 8}}, {**base, "graph": "y"}]
    assert len({cache_folder.key(each) for each in [base, *others]}) == 4


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("EDGEDIFF_CACHE", raising=False)
    assert cache_folder.root() == tmp_path / "xdg" / "edgediff"
    monkeypatch.setenv("EDGEDIFF_CACHE", str(tmp_path / "own"))
    assert cache_folder.chosen(None) == cache_folder.chosen(True) == tmp_path / "own"
    assert cache_folder.chosen(False) is None
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is no folder"):
        cache_folder.chosen(tmp_path / "file")


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="needs a folder that it cannot write"
)
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="EDGEDIFF_CACHE"):
        keep(tmp_path)


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / cache_folder.ENTRIES).write_text("")
    with pytest.raises(ResourceError, match="EDGEDIFF_CACHE"):
        keep(tmp_path)


def test_the_command(tmp_path: Path) -> None:
    keep(tmp_path)
    told = CliRunner().invoke(command, ["--folder", str(tmp_path), "--json"])
    found = json.loads(told.stdout)
    assert found["entries"][0]["kind"] == "test"
    assert found["bytes"] == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert "aaaaaaaaaaaa" in CliRunner().invoke(command, ["--folder", str(tmp_path)]).stdout
    assert "freed" in CliRunner().invoke(command, ["--folder", str(tmp_path), "--clear"]).stdout
    assert cache_folder.entries(tmp_path) == []


class TestDigests:
    """Remembered for large files that did not change since they were hashed."""

    @pytest.fixture
    def large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(digests, "LARGE", 4)
        file = tmp_path / "weights"
        file.write_bytes(b"blob")
        self.settle(file, monkeypatch)
        return file

    def settle(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        later = file.stat().st_ctime_ns + 3_000_000_000
        monkeypatch.setattr(digests.time, "time_ns", lambda: later)

    @pytest.mark.skipif(sys.platform == "win32", reason="nothing is remembered there")
    def test_a_file_is_hashed_once(
        self, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = tmp_path / "cache"
        receipt = verified(large, 4, SHA_OF_BLOB, known)
        assert digests.recalled(known, receipt) == SHA_OF_BLOB
        monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("it was read again"))
        assert verified(large, 4, SHA_OF_BLOB, known) == receipt

    def test_another_content_is_hashed_again(self, large: Path, tmp_path: Path) -> None:
        known = tmp_path / "cache"
        verified(large, 4, SHA_OF_BLOB, known)
        before = large.stat()
        large.write_bytes(b"blot")
        os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))  # as somebody would who hides it
        with pytest.raises(Exception, match="sha256"):
            verified(large, 4, SHA_OF_BLOB, known)

    def test_a_file_just_written_is_not_remembered(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(digests, "LARGE", 4)
        file = tmp_path / "weights"
        file.write_bytes(b"blob")
        verified(file, 4, SHA_OF_BLOB, tmp_path / "cache")
        assert digests.recalled(tmp_path / "cache", Receipt.of(file.stat())) is None

    def test_a_damaged_memory_is_no_memory(self, large: Path, tmp_path: Path) -> None:
        known = tmp_path / "cache"
        for content in ("{", "[]", '{"x": 3}'):
            known.mkdir(exist_ok=True)
            (known / digests.NAME).write_text(content)
            assert verified(large, 4, SHA_OF_BLOB, known).bytes == 4
