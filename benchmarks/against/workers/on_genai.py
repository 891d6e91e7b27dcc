"""OpenVINO GenAI's ``Text2ImagePipeline``. Options: model, cache (a folder or null), guidance, tiny."""

from __future__ import annotations

import array
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openvino_genai as genai
from protocol import HEIGHT, PROMPT, WIDTH, Drawn, serve


class _Given(genai.Generator):
    """Noise that was drawn elsewhere."""

    def __init__(self, values: Any) -> None:
        genai.Generator.__init__(self)
        self._values = values.reshape(-1)
        self._at = 0

    def next(self) -> float:
        self._at += 1
        return float(self._values[self._at - 1])

    def randn_tensor(self, shape: Any) -> Any:
        import openvino

        wanted = tuple(int(extent) for extent in shape)
        if int(np.prod(wanted)) > self._values.size:  # what ancestral samplers would ask for later
            return openvino.Tensor(np.zeros(wanted, np.float32))
        return openvino.Tensor(np.ascontiguousarray(self._values[: int(np.prod(wanted))].reshape(wanted)))


class GenAI:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def load(self) -> dict[str, Any]:
        folder = Path(self._options["model"])
        pipe = genai.Text2ImagePipeline(folder)
        pipe.set_scheduler(
            genai.Scheduler.from_config(
                folder / "scheduler" / "scheduler_config.json", genai.Scheduler.Type.EULER_DISCRETE
            )
        )
        pipe.reshape(1, HEIGHT, WIDTH, self._options.get("guidance", 1.0))
        cache = self._options.get("cache")
        pipe.compile("CPU", **({"CACHE_DIR": cache} if cache else {}))
        self._pipe = pipe
        return {"version": genai.__version__}

    def passes(self, count: int) -> list[float]:
        times: list[float] = []

        def told(step: int, steps: int, latent: Any) -> bool:
            times.append(time.perf_counter())
            return step + 1 >= steps  # ends the call without a picture

        self._draw(count + 1, 1.0, None, told)
        return [b - a for a, b in pairwise(times)]

    def picture(self, steps: int, guidance: float, latents: array.array[float] | None) -> Drawn:
        last: dict[str, Any] = {}

        def told(step: int, steps: int, latent: Any) -> bool:
            if step + 1 == steps:
                last["latents"] = np.array(latent.data, np.float32).tobytes()
            return False

        image = self._draw(steps, guidance, latents, told)
        metrics = self._pipe.get_performance_metrics()
        stages = {"decoder": metrics.get_vae_decoder_infer_duration() / 1000}
        stages["denoiser"] = sum(metrics.raw_metrics.unet_inference_durations) / 1e6
        stages["text_encoder"] = sum(metrics.get_text_encoder_infer_duration().values()) / 1000
        return Drawn(rgb=np.ascontiguousarray(image.data[0]).tobytes(), stages=stages, **last)

    def _draw(self, steps: int, guidance: float, latents: Any, told: Any) -> Any:
        given = {} if latents is None else {"generator": _Given(np.frombuffer(latents, np.float32))}
        return self._pipe.generate(
            PROMPT, width=WIDTH, height=HEIGHT, num_inference_steps=steps, guidance_scale=guidance,
            num_images_per_prompt=1, callback=told, **given,
        )  # fmt: skip


if __name__ == "__main__":
    serve(GenAI)
