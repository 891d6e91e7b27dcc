"""What the README shows is executed: every snippet, and installing as a newcomer does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.facts import FACTS
from tests.snippets import README, Snippet, commands, for_set_up, snippets

FOUND = snippets(README.read_text(encoding="utf-8"))
PROMPT = "a red circle to the left of a blue square on a white background"


def environment() -> dict[str, str]:
    """The environment with this interpreter's scripts first, so that ``edgediff`` and ``python`` are ours."""
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")])}


def names(kind: str) -> list[Snippet]:
    return [s for s in FOUND if s.language == kind and s.reason is None]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the snippets are for POSIX shells")
def test_bash_snippets(tmp_path: Path) -> None:
    """All in order, in one folder: later ones may use what earlier ones made."""
    lines = [line for snippet in names("bash") for line in commands(snippet.text) if not for_set_up(line)]
    if not lines:
        pytest.skip("the README shows no command that is run")
    script = "\n".join(["set -euxo pipefail", *lines])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("snippet", names("python"), ids=lambda s: f"line-{s.line}")
def test_python_snippets(snippet: Snippet, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", snippet.text], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, f"README.md, line {snippet.line}:\n{done.stderr}"


def test_what_is_not_run_says_why() -> None:
    for snippet in FOUND:
        if snippet.reason is not None:
            print(f"README.md, line {snippet.line}: not run, {snippet.reason}")
            assert len(snippet.reason) > 5


def test_set_up_commands_are_the_ones_that_are_tested() -> None:
    shown = [c for s in names("bash") for c in commands(s.text) if for_set_up(c)]
    for command in shown:
        assert command.startswith(
            ("python3 -m venv", "cd ", "git clone", "pip install", "python -m tests", "python3 -m tests")
        ), command


def test_taking_snippets_out() -> None:
    markdown = textwrap.dedent(
        """
        ```bash
        # a comment
        edgediff run "a" \\
            -o a.png
        pip install .
        ```
        <!-- not run: needs a card -->
        ```python
        x = 1
        ```
        ```text
        nothing
        ```
        ```python
        y = "```"
        ```
        """
    )
    first, second, third = snippets(markdown)
    assert (first.language, first.line, first.reason) == ("bash", 2, None)
    assert [" ".join(c.split()) for c in commands(first.text)] == [
        'edgediff run "a" -o a.png',
        "pip install .",
    ]
    assert [for_set_up(c) for c in commands(first.text)] == [False, True]
    assert (second.text, second.reason) == ("x = 1\n", "needs a card")
    assert (third.text, third.reason) == ('y = "```"\n', None)


@pytest.mark.slow
def test_install_and_draw(installed: Path) -> None:
    """The README's first command, as it stands there, in a copy of the sources."""
    assert (installed / "out.png").read_bytes().startswith(b"\x89PNG")
    packages = next((installed / ".venv" / "lib").glob("python*/site-packages"))
    tools = sum(size_of(f) for name in ("pip*", "setuptools*") for f in packages.glob(name))
    FACTS.append(f"a fresh install takes {(size_of(packages) - tools) / 1e6:.0f} MB beside pip")
    python = installed / ".venv" / "bin" / "python"
    for heavy in ("torch", "diffusers", "transformers", "onnx"):
        find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({heavy!r}) is not None)"
        assert subprocess.run([python, "-c", find], cwd=installed).returncode == 0, f"{heavy} was installed"


def size_of(folder: Path) -> int:
    """Return the bytes of the files in ``folder``."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
