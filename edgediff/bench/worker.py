"""A process that does one order of the measuring: it reads JSON from stdin and prints one JSON object.

It is started with the time of its start, so that what Python itself takes is counted.
"""

from __future__ import annotations

import json
import sys


def main(first: float) -> None:
    """Do what stdin asks for: ``warm``, ``cold``, ``limits`` or ``work``. ``first`` is when Python was ready
    to do something, by ``time.perf_counter``."""
    order = json.loads(sys.stdin.read())
    import importlib
    import warnings

    from edgediff.errors import EdgediffError

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            module = importlib.import_module(f"edgediff.bench.{order['do']}")
            answer = module.done(order, first)
        except EdgediffError as error:
            answer = {"error": {"kind": type(error).__name__, "message": str(error)}}
        except MemoryError:
            answer = {
                "error": {"kind": "ResourceError", "message": "memory ran out; ask for a smaller size."}
            }
    told = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning))
    print(json.dumps({**answer, "warnings": list(told)}))
