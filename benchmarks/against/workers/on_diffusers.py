"""diffusers on PyTorch, or Optimum's pipeline over ONNX Runtime.

Options: model, dtype, tiny (a folder, or absent), optimum (true for the latter).
"""

from __future__ import annotations

import array
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from protocol import HEIGHT, PROMPT, WIDTH, Drawn, serve


class Diffusers:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def load(self) -> dict[str, Any]:
        model = self._options["model"]
        if self._options.get("optimum"):
            import onnxruntime
            from optimum.onnxruntime import ORTStableDiffusionPipeline

            self._pipe = ORTStableDiffusionPipeline.from_pretrained(model, provider="CPUExecutionProvider")
            info = {"onnxruntime": onnxruntime.__version__}
        else:
            import diffusers

            dtype = getattr(torch, self._options["dtype"])
            given: dict[str, Any] = {}
            if self._options.get("tiny"):
                given["vae"] = diffusers.AutoencoderTiny.from_pretrained(
                    self._options["tiny"], torch_dtype=dtype
                )
            self._pipe = diffusers.StableDiffusionPipeline.from_pretrained(
                model, torch_dtype=dtype, safety_checker=None, **given
            )
            info = {"diffusers": diffusers.__version__}
        self._pipe.scheduler = EulerDiscreteScheduler.from_config(self._pipe.scheduler.config)
        self._pipe.set_progress_bar_config(disable=True)
        return {**info, "torch": torch.__version__, "threads": torch.get_num_threads()}

    @torch.no_grad()
    def passes(self, count: int) -> list[float]:
        if not hasattr(self, "_text"):
            self._text = self._pipe.encode_prompt(PROMPT, torch.device("cpu"), 1, False)[0]
        times: list[float] = []

        def told(pipe: Any, step: int, t: Any, tensors: Any) -> dict[str, Any]:
            times.append(time.perf_counter())
            return {}

        self._pipe(prompt_embeds=self._text, height=HEIGHT, width=WIDTH, num_inference_steps=count + 1,
                   guidance_scale=1.0, output_type="latent", callback_on_step_end=told)  # fmt: skip
        return [b - a for a, b in pairwise(times)]

    @torch.no_grad()
    def picture(self, steps: int, guidance: float, latents: array.array[float] | None) -> Drawn:
        given: dict[str, Any] = {"generator": torch.Generator().manual_seed(0)}
        if latents is not None:
            start = torch.from_numpy(np.frombuffer(latents, np.float32).reshape(1, 4, 64, 64).copy())
            given["latents"] = start.to(getattr(torch, self._options.get("dtype", "float32")))
        kept: dict[str, Any] = {}
        times: list[float] = [time.perf_counter()]

        def told(pipe: Any, step: int, t: Any, tensors: Any) -> dict[str, Any]:
            times.append(time.perf_counter())
            kept["latents"] = tensors["latents"]
            return {}

        image = self._pipe(PROMPT, height=HEIGHT, width=WIDTH, num_inference_steps=steps,
                           guidance_scale=guidance, callback_on_step_end=told, **given).images[0]  # fmt: skip
        stages = {"decoder": time.perf_counter() - times[-1]}
        final = np.asarray(kept["latents"].float(), np.float32).tobytes()
        return Drawn(rgb=image.tobytes(), latents=final, stages=stages)


if __name__ == "__main__":
    serve(Diffusers)
