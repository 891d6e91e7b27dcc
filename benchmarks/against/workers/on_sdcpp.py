"""stable-diffusion.cpp through its Python binding.

Options: model, wtype, tiny, flash, direct, vae_direct, sigmas (by number of steps).
"""

from __future__ import annotations

import array
import os
import time
from typing import Any

from protocol import HEIGHT, PROMPT, WIDTH, Drawn, serve
from stable_diffusion_cpp import StableDiffusion


class StableDiffusionCpp:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def load(self) -> dict[str, Any]:
        options = self._options
        self._model = StableDiffusion(
            model_path=options["model"],
            taesd_path=options.get("tiny") or "",
            wtype=options.get("wtype", "default"),
            n_threads=len(os.sched_getaffinity(0)),
            vae_decode_only=True,
            diffusion_flash_attn=options.get("flash", False),
            diffusion_conv_direct=options.get("direct", False),
            vae_conv_direct=options.get("vae_direct", False),
            rng_type="cuda",
            verbose=options.get("verbose", False),
        )
        from importlib.metadata import version

        return {"stable-diffusion-cpp-python": version("stable-diffusion-cpp-python")}

    def passes(self, count: int) -> list[float]:
        raise NotImplementedError("a call cannot be ended before its picture; passes are those of pictures")

    def picture(self, steps: int, guidance: float, latents: array.array[float] | None) -> Drawn:
        began = time.perf_counter()
        marks: dict[int, float] = {}

        def told(step: int, of: int, seconds: float) -> None:
            marks[step] = time.perf_counter()

        images = self._model.generate_image(
            prompt=PROMPT, width=WIDTH, height=HEIGHT, sample_method="euler", sample_steps=steps,
            cfg_scale=guidance, seed=0, sigmas=self._options["sigmas"][str(steps)], progress_callback=told,
        )  # fmt: skip
        ended = time.perf_counter()
        stages = {
            "text_encoder": marks[0] - began,
            "passes": [marks[i + 1] - marks[i] for i in range(steps)],
            "decoder": ended - marks[steps],
        }
        return Drawn(rgb=images[0].convert("RGB").tobytes(), stages=stages)


if __name__ == "__main__":
    serve(StableDiffusionCpp)
