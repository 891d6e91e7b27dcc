"""What the README shows, taken out of it: fenced bash and python blocks, and whether they are to be run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

README = Path(__file__).resolve().parent.parent / "README.md"
# The two commands that set up an environment: `python -m tests` itself, and installing (test_readme.py).
SET_UP = ("python3 -m venv", "pip install", "python -m tests", "python3 -m tests", "git clone", "cd ")


class Snippet(NamedTuple):
    """One fenced block; ``reason`` is why it is not run, from ``<!-- not run: reason -->`` above it."""

    line: int
    language: str
    text: str
    reason: str | None


def snippets(markdown: str) -> list[Snippet]:
    """Return the fenced blocks whose language is bash or python, in order."""
    found = []
    pattern = r"(?ms)(?:^<!-- not run: ([^\n]*?) -->\n\s*)?^```(\w*)[^\n]*\n(.*?)^```[ ]*$"
    for match in re.finditer(pattern, markdown):
        reason, language, text = match.groups()
        if language in ("bash", "python"):
            line = markdown.count("\n", 0, match.start(2)) + 1
            found.append(Snippet(line, language, text, reason))
    return found


def commands(text: str) -> list[str]:
    """Return a bash block's commands, continued lines joined, comments dropped."""
    joined = text.replace("\\\n", " ")
    return [
        line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]


def for_set_up(command: str) -> bool:
    """Say whether CI runs this command itself rather than among the others."""
    return command.startswith(SET_UP)
