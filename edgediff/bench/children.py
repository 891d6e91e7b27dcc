"""Orders to processes of their own, so that what one measures holds nothing of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from edgediff import errors
from edgediff.errors import EdgediffError, ResourceError

# The child looks for modules where this process does; -c would put its working folder first.
_CHILD = (
    "import sys, time; first = time.perf_counter(); sys.path[:] = sys.argv[1:]; "
    "from edgediff.bench import worker; worker.main(first)"
)


def do(what: str, order: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Let a new process do an order of ``edgediff.bench.<what>`` and return its answer.

    ``spawned`` in the order is when the process was started, by ``time.perf_counter``; ``ended`` in the
    answer is when it had ended.

    Raises:
        EdgediffError: what the process raised.
        ResourceError: it ended without an answer, as one does that the system killed for its memory.
    """
    given = {**order, "do": what, "spawned": time.perf_counter()}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, *sys.path], input=json.dumps(given), capture_output=True,
            encoding="utf-8", errors="replace", env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except OSError as error:
        raise ResourceError(f"bench: no process can be started ({error.strerror or error}).") from error
    ended = time.perf_counter()
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2][:300] or "it said nothing; was memory short?"
        raise ResourceError(
            f"bench: the process that measured ({what}) ended with status {done.returncode}: {last}"
        ) from None
    if "error" in answer:
        kind = getattr(errors, answer["error"]["kind"], EdgediffError)
        raise kind(answer["error"]["message"])
    return {**answer, "spawned": given["spawned"], "ended": ended}
