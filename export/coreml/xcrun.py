"""Compiles packages with Xcode's own compiler, where there is one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from edgediff.errors import CheckFailed
from edgediff.export.write import Folder

_LIMIT = 1800  # seconds
_PIECE = 1 << 22


def compile_all(folder: Folder, packages: Iterable[str], say: Callable[[str], None]) -> tuple[str, ...]:
    """Put ``X.mlmodelc`` beside every ``X.mlpackage``, which is what Apple's Swift package loads.

    Without Xcode (and off macOS) nothing is compiled; the notes then say which command does it.

    Raises:
        CheckFailed: the compiler refuses a package.
    """
    tool = shutil.which("xcrun")
    if sys.platform != "darwin" or tool is None:
        return (
            "not compiled here; on a Mac with Xcode, in this folder: "
            "find . -name '*.mlpackage' -prune -execdir xcrun coremlcompiler compile {} . \\;",
        )
    for name in packages:
        say(f"compiling {name}")
        into = (folder.path / name).parent
        told = subprocess.run(
            [tool, "coremlcompiler", "compile", str(folder.path / name), str(into)],
            capture_output=True, text=True, timeout=_LIMIT, check=False,
        )  # fmt: skip
        made = PurePosixPath(name).with_suffix(".mlmodelc")
        if told.returncode != 0 or not (folder.path / made).is_dir():
            raise CheckFailed(f"{name}: coremlcompiler refuses it: {(told.stderr or told.stdout)[-500:]}")
        _list(folder, folder.path / made)
    return ()


def _list(folder: Folder, made: Path) -> None:
    """Enter the compiler's files among those of the folder."""
    for file in sorted(path for path in made.rglob("*") if path.is_file()):
        digest, size = hashlib.sha256(), 0
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                digest.update(piece)
                size += len(piece)
            os.fsync(opened.fileno())
        name = file.relative_to(folder.path).as_posix()
        folder.files[name] = {"bytes": size, "sha256": digest.hexdigest()}
