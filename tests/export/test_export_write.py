"""A folder appears complete or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from export_helpers import model_folder

from edgediff.errors import BusyError, CancelledError, InputError, ResourceError
from edgediff.export import write
from edgediff.export.main import export_onnx
from edgediff.export.write import HashedFile, new_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("source") / "model")


def count_writes(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    calls = 0
    original = HashedFile.write

    def counted(self: HashedFile, data: Any, /) -> int:
        nonlocal calls
        calls += 1
        return original(self, data)

    monkeypatch.setattr(HashedFile, "write", counted)
    export_onnx(str(model), str(out), verify=False)
    monkeypatch.undo()
    return calls


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_failure_at_any_write(
    failure: BaseException, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = count_writes(model, tmp_path / "whole", monkeypatch)
    original = HashedFile.write
    for fatal in [*range(0, total, max(1, total // 12)), total - 1]:
        left = fatal

        def failing(self: HashedFile, data: Any, /) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                raise failure
            return original(self, data)

        monkeypatch.setattr(HashedFile, "write", failing)
        wanted = ResourceError if isinstance(failure, OSError) else CancelledError
        with pytest.raises(wanted):
            export_onnx(str(model), str(tmp_path / "out"), verify=False)
        monkeypatch.undo()
        assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_failure_at_the_end(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(*((os, "fsync", failing) if call == "fsync" else (Path, "rename", failing)))
    with pytest.raises(ResourceError, match="Input/output error"), new_folder(tmp_path / "out") as folder:
        folder.write("a/b.txt", b"x")
    assert list(tmp_path.iterdir()) == []


def test_overwrite_swaps_and_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    for content in (b"old", b"new"):
        with new_folder(out, overwrite=True) as folder:
            folder.write(write.MANIFEST, content)
        assert (out / write.MANIFEST).read_bytes() == content
    original = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt), new_folder(out, overwrite=True) as folder:
        folder.write(write.MANIFEST, b"newest")
    assert (out / write.MANIFEST).read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_targets_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine.txt").write_text("x")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / write.MANIFEST).write_text("{}")
    (tmp_path / "link").symlink_to(bundle)
    for name in ("file", "folder", "bundle", "link"):
        with pytest.raises(InputError, match="exists already"):
            write.check_target(tmp_path / name, overwrite=False)
    for name in ("file", "folder", "link"):
        with pytest.raises(InputError, match="is not a bundle"):
            write.check_target(tmp_path / name, overwrite=True)
    write.check_target(bundle, overwrite=True)
    with pytest.raises(InputError, match="no such folder"):
        write.check_target(tmp_path / "absent" / "out", overwrite=False)
    with pytest.raises(InputError, match="name of a new folder"):
        write.check_target(Path(), overwrite=False)


def test_two_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BusyError, match="meanwhile"), new_folder(out) as late:
        late.write("late", b"")
        with new_folder(out) as early:
            early.write("early", b"")
    assert [path.name for path in out.iterdir()] == ["early"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_too_little_space(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="MiB free"):
        write.check_space(tmp_path / "out", 1 << 60)


@pytest.mark.skipif(os.name != "posix", reason="kills a process by signal")
def test_killed_process_leaves_nothing_lasting(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from edgediff.export.write import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as folder:\n"
        "    folder.write('a', b'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.iterdir())) == 1
    (partial,) = tmp_path.iterdir()
    with new_folder(tmp_path / "out") as folder:
        folder.write(write.MANIFEST, b"y")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # Killed between the two renames of an overwrite: the old bundle comes back.
    (tmp_path / "out").rename(partial.with_suffix(".old"))
    with pytest.raises(InputError, match="exists already"), new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / write.MANIFEST).read_bytes() == b"y"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
