"""A bundle with its graphs: what is asked of the machine, one call at a time, and giving it back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from edgediff import cache_folder, probe
from edgediff import runtime as runtimes
from edgediff.bundle import Bundle
from edgediff.errors import BusyError, InputError
from edgediff.parts import Parts
from edgediff.probe import Choice
from edgediff.runtime import GraphInfo

EMBEDDED = Path(__file__).parent / "bundles" / "shapes"


class Opened:
    """What :class:`edgediff.Pipeline` is made on; its arguments are described there."""

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        *,
        device: str = "auto",
        runtime: str = "auto",
        threads: int | None = None,
        verify: bool = True,
        precision: str | None = None,
        cache: str | Path | bool | None = None,
        memory: str | int | None = None,
    ) -> None:
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise InputError(f"threads: {threads!r} is not a whole number of 1 or more.")
        if bundle is None and not EMBEDDED.is_dir():
            raise InputError(
                "no bundle was named, and this installation carries no embedded model; name one."
            )
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(EMBEDDED if bundle is None else bundle)
        folder = cache_folder.chosen(cache)
        self._choice: Choice | None = None
        budget = None
        if memory is not None:
            from edgediff.memory.budget import Budget

            budget = Budget.asked(memory, opened, runtime, device, precision)
        self._open = budget is None and device == "auto" and runtimes.chosen(runtime, opened) == "onnxruntime"
        self._asked = (threads, precision, folder)
        self._parts = Parts(opened, device, runtime, {"threads": threads}, verify, precision, folder)
        self._parts.budget = budget
        self._busy = threading.Lock()

    @property
    def memory(self) -> dict[str, Any] | None:
        """The budget, what the last call was expected to take and what the process took at most, in bytes;
        None without a budget."""
        return None if self._parts.budget is None else self._parts.budget.told()

    def check_memory(self) -> None:
        """Warn if this process took more than the budget it was given; drawing does so by itself."""
        if self._parts.budget is not None:
            self._parts.budget.check()

    @property
    def bundle(self) -> Bundle:
        """The opened bundle."""
        return self._parts.bundle

    @property
    def choice(self) -> Choice | None:
        """What the device ``auto`` is here, and why; None where a device was named.

        It is found out when first asked for, at the latest by the first drawing.
        """
        if self._open:
            self._choice = probe.settled(self.bundle, *self._asked)
            self._parts.place(self._choice.device, self._asked[1] or self._choice.precision)
            self._open = False
        return self._choice

    def cancel(self) -> None:
        """Stop the running call from another thread; it raises CancelledError and the pipeline can be used
        again."""
        self._parts.cancel()

    @property
    def timings(self) -> dict[str, float]:
        """Seconds by stage since the last call began."""
        return dict(self._parts.timings)

    def infos(self) -> dict[str, GraphInfo]:
        """Return what is loaded so far, by role, with provider and nodes per provider."""
        return self._parts.infos()

    def close(self) -> None:
        """Give all memory back."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise BusyError(
                "this pipeline is drawing already; make one per thread, or wait for the other call."
            )
        began = time.perf_counter()
        try:
            self._parts.start()
            _ = self.choice
            yield
            self._parts.timings["total"] = time.perf_counter() - began
        finally:
            self._busy.release()
