"""A scheduler's configuration as diffusers' pipelines have it, which is not always as it was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgediff import sampler as samplers

# diffusers corrects the configurations of these pipelines, and of no others, when it loads them.
_CORRECTED = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")


def as_the_pipeline_has_it(scheduler: Mapping[str, Any], pipeline: str | None) -> dict[str, Any]:
    """Return the scheduler's configuration as the pipeline class ``pipeline`` changes it when it is loaded.

    Early checkpoints of Stable Diffusion were published with ``steps_offset`` 0 and ``clip_sample`` true,
    which the model was not trained with; those pipelines set them right, so the pictures people know come
    from the set values.
    """
    if pipeline not in _CORRECTED:
        return dict(scheduler)
    wanted: dict[str, Any] = {"steps_offset": 1, "clip_sample": False}
    if pipeline == "StableDiffusionInpaintPipeline":
        wanted["skip_prk_steps"] = True
    defaults = samplers.defaults_of(str(scheduler.get("_class_name", "")))
    effective = {**defaults, **scheduler}
    changed = {key: value for key, value in wanted.items() if effective.get(key, value) != value}
    return {**scheduler, **changed}
