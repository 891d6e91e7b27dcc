"""edgediff. Options: bundle; given: what ``edgediff.load`` takes (device, precision, cache, memory, ...);
call: further arguments of a call (decoder, ...).
"""

from __future__ import annotations

import array
import time
from itertools import pairwise
from typing import Any

import numpy as np
from protocol import HEIGHT, PROMPT, WIDTH, Drawn, serve

import edgediff


class Edgediff:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._call: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "sampler": "euler", "seed": 0}
        self._call |= options.get("call", {})

    def load(self) -> dict[str, Any]:
        self._pipe = edgediff.load(self._options["bundle"], **self._options.get("given", {}))
        return {"edgediff": edgediff.__version__}

    def passes(self, count: int) -> list[float]:
        times = []
        for _ in self._pipe.stream(PROMPT, num_inference_steps=count + 1, guidance_scale=1.0, **self._call):
            times.append(time.perf_counter())
        return [b - a for a, b in pairwise(times)]

    def picture(self, steps: int, guidance: float, latents: array.array[float] | None) -> Drawn:
        given: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        if latents is not None:
            given["latents"] = np.frombuffer(latents, np.float32).reshape(1, 4, HEIGHT // 8, WIDTH // 8)

        def told(pipe: Any, step: int, t: float, tensors: dict[str, Any]) -> None:
            kept["latents"] = tensors["latents"]

        out = self._pipe(PROMPT, num_inference_steps=steps, guidance_scale=guidance,
                         callback_on_step_end=told, **self._call, **given)  # fmt: skip
        final = np.asarray(kept["latents"], np.float32).tobytes()
        return Drawn(rgb=out.images[0].convert("RGB").tobytes(), latents=final, stages=dict(out.timings))


if __name__ == "__main__":
    serve(Edgediff)
