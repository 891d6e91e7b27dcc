"""A system that draws grey pictures in no time: what the harness is tested with.

Options: wait (seconds of a pass), fail (``pass`` or ``end``).
"""

from __future__ import annotations

import array
import time
from typing import Any

from protocol import HEIGHT, WIDTH, Drawn, serve


class Nothing:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def load(self) -> dict[str, Any]:
        print("systems print what they like")
        return {"nothing": "1.0"}

    def passes(self, count: int) -> list[float]:
        if self._options.get("fail") == "pass":
            raise RuntimeError("no kernel for this")
        time.sleep(self._options.get("wait", 0))
        return [self._options.get("wait", 0)] * count

    def picture(self, steps: int, guidance: float, latents: array.array[float] | None) -> Drawn:
        if self._options.get("fail") == "end":
            raise SystemExit(3)
        final = b"" if latents is None else latents.tobytes()
        return Drawn(rgb=bytes([128]) * (HEIGHT * WIDTH * 3), latents=final, stages={"decoder": 0.0})


if __name__ == "__main__":
    serve(Nothing)
