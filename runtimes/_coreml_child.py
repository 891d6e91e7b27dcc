"""Core ML in a process of its own, since it ends the process where a package is damaged or memory runs out.

``python -m edgediff.runtimes._coreml_child compile PACKAGE DESTINATION`` and ``... load COMPILED UNITS``
print one JSON object as their last line: ``{"error": null}``, or a reason.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from edgediff.errors import UnsupportedError
from edgediff.runtimes import _coreml_tools as tools

_LONGEST = 3600.0  # seconds


def attempt(verb: str, path: str, other: str) -> str | None:
    """Do in a child process what the verb says; None, or why it cannot be done.

    Where there is no interpreter to start (a frozen application) it is done here.

    Raises:
        UnsupportedError: no child can be started.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        return _done(verb, path, other)
    command = [sys.executable, "-m", "edgediff.runtimes._coreml_child", verb, path, other]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {_LONGEST:g} s"
    except OSError as error:
        raise UnsupportedError(f"runtime coreml: no process can be started ({error}).") from error
    if ended.returncode < 0:
        return f"Core ML ended the process with {_name(-ended.returncode)}"
    try:
        reason: str | None = json.loads(ended.stdout.splitlines()[-1])["error"]
    except (ValueError, LookupError, TypeError):
        last = _line((ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1])
        raise UnsupportedError(f"runtime coreml: its helper process did not start ({last}).") from None
    return reason


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split())[:300])


def _done(verb: str, path: str, other: str) -> str | None:
    ct = tools.load()
    try:
        if verb == "compile":
            ct.models.utils.compile_model(path, other)
        else:
            ct.models.CompiledMLModel(path, ct.ComputeUnit[other])
    except Exception as error:  # coremltools' errors share no base but this
        return _line(str(error)) or type(error).__name__
    return None


def main(arguments: list[str]) -> int:
    """Do what the arguments say and print how it went."""
    verb, path, other = arguments
    print(json.dumps({"error": _done(verb, path, other)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
