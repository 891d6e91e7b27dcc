"""The command as a process of its own: pipes that close, terminals, signals, odd environments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EDGEDIFF = [sys.executable, "-m", "edgediff"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX shells and terminals alone")


def run(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command: list[Any] = [*EDGEDIFF, *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def shell(line: str, folder: Path, bundle: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``draw`` stands for the command."""
    draw = " ".join([f'"{sys.executable}"', "-m edgediff run", f'-m "{bundle}"', "--runtime null"])
    script = f'set -o pipefail\ndraw() {{ {draw} "$@"; }}\n{line}'
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)


@POSIX
@pytest.mark.parametrize("redirection", ["| head -c 0", "| true", ">&-", "2>&-", "<&-", ">/dev/full"])
def test_streams_that_are_closed(tmp_path: Path, fake_bundle: Path, redirection: str) -> None:
    done = shell(f"draw 'a red circle' -o a.png {redirection}", tmp_path, fake_bundle)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "a.png").is_file()
    if "full" not in redirection:
        assert done.returncode == 0, done.stderr


@POSIX
def test_progress_is_for_terminals(tmp_path: Path, fake_bundle: Path) -> None:
    import pty

    controller, terminal = pty.openpty()
    command = [*EDGEDIFF, "run", "a", "-m", str(fake_bundle), "--runtime", "null", "-o"]
    shown = b""
    for extra, expected in ((["a.png"], True), (["b.png", "-q"], False), (["c.png", "--json"], False)):
        done = subprocess.run([*command, *extra], cwd=tmp_path, stderr=terminal, stdout=subprocess.PIPE)
        assert done.returncode == 0
        os.write(terminal, b"END\n")
        shown = b""
        while not shown.endswith(b"END\r\n"):
            shown += os.read(controller, 4096)
        assert (b"step 3 of 3" in shown) == expected
    os.close(terminal)
    os.close(controller)


@POSIX
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([b"a \xff"], "UTF-8"),
        ([b"a", b"-o", b"\xff.png"], "UTF-8"),
        ([b"a", b"-m", b"\xff"], "no such folder"),
    ],
)
def test_bytes_that_are_no_text(tmp_path: Path, fake_bundle: Path, arguments: list[bytes], says: str) -> None:
    bundle = [] if b"-m" in arguments else ["-m", str(fake_bundle)]
    done = run("run", *arguments, *bundle, cwd=tmp_path)
    assert done.returncode == (3 if b"-m" in arguments else 2)
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@POSIX
@pytest.mark.parametrize("name", ["LC_ALL", "LANG"])
def test_a_plain_locale(tmp_path: Path, fake_bundle: Path, name: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    arguments = ["a 🎈 naïve", "-m", str(fake_bundle), "--runtime", "null", "-o", "é.png"]
    done = run("run", *arguments, cwd=tmp_path, env={**environment, name: "C"})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("settings", [{}, {"HOME": "/nonexistent"}, {"HOME": "/"}])
def test_homes_do_not_matter(tmp_path: Path, fake_bundle: Path, settings: dict[str, str]) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HOME", "XDG_"))} | settings
    done = run("run", "a", "-m", str(fake_bundle), "--runtime", "null", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr


def test_statuses_reach_the_shell(tmp_path: Path, fake_bundle: Path) -> None:
    assert run("run", "a", "-m", "nowhere", cwd=tmp_path).returncode == 3
    assert run("run", "a", "-m", str(fake_bundle), "-s", "-1", cwd=tmp_path).returncode == 2
    assert run("run", "a", "-m", str(fake_bundle), "--device", "cuda", cwd=tmp_path).returncode in (3, 5)
    assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_there_for_those_who_ask(tmp_path: Path) -> None:
    environment = {**os.environ, "EDGEDIFF_DEBUG": "1"}
    done = run("show", "nowhere", cwd=tmp_path, env=environment)
    assert done.returncode == 3
    assert "Traceback" in done.stderr


def test_the_installed_script(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("edgediff")
    if not script.exists():
        pytest.skip("the scripts folder holds no edgediff")
    assert subprocess.run([script, "--version"], capture_output=True, cwd=tmp_path).returncode == 0
