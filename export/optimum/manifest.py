"""The parts of a manifest that state what an opened folder of graphs is."""

from __future__ import annotations

from typing import Any

from edgediff.bundle import Bundle, GraphSpec, TensorSpec, Text
from edgediff.errors import SourceError
from edgediff.export.families.defaults import sampler_name


def model(facts: Bundle) -> dict[str, Any]:
    """Return the field ``model``."""
    latents, text = facts.latents, facts.text
    return {
        "family": facts.family,
        "tasks": list(facts.tasks),
        "scheduler": dict(facts.scheduler),
        "latents": {
            "channels": latents.channels,
            "axes": list(latents.axes),
            "downscale": dict(latents.downscale),
            "scaling_factor": latents.scaling_factor,
            "shift_factor": latents.shift_factor,
        },
        "text": None if text is None else _text(text),
        "guidance_embedding": facts.guidance_embedding and {"dims": facts.guidance_embedding},
        "size_ids": list(facts.size_ids),
    }


def _text(text: Text) -> dict[str, Any]:
    return {
        "length": text.length,
        "tokenizer": text.tokenizer,
        "encoders": [
            {
                "role": each.role,
                "length": each.length,
                "tokenizer": each.tokenizer,
                "hidden": each.hidden,
                "pooled": each.pooled,
            }
            for each in text.encoders
        ],
        "zero_negative": text.zero_negative,
    }


def defaults(facts: Bundle) -> dict[str, Any]:
    """Return the field ``defaults``; the sampler is the scheduler's own."""
    chosen = facts.defaults
    sampler = chosen.sampler or sampler_name(str(facts.scheduler.get("_class_name", "")))
    if not sampler:
        raise SourceError(f"{facts.path}: its scheduler_config.json names no _class_name.")
    return {
        "sampler": sampler,
        "num_inference_steps": chosen.num_inference_steps,
        "guidance_scale": chosen.guidance_scale,
        "size": dict(chosen.size),
    }


def graph(spec: GraphSpec) -> dict[str, Any]:
    """Return a graph's entry in ``components``."""
    return {
        "runtime": spec.runtime,
        "profile": spec.profile,
        "file": spec.file,
        "weights": list(spec.weights),
        "precision": spec.precision,
        "numerics": spec.numerics,
        "inputs": [_tensor(tensor) for tensor in spec.inputs],
        "outputs": [_tensor(tensor) for tensor in spec.outputs],
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "dims": list(tensor.dims)}
