"""The sampler table of a bundle's default settings, for runtimes that bring no samplers of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgediff import sampler as samplers
from edgediff import tables
from edgediff.errors import EdgediffError
from edgediff.schedule import Request


def default_tables(
    facts: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, bytes], list[str]]:
    """Return files by name, and notes: what the manifest's defaults have no table for, and why."""
    name, steps = str(defaults["sampler"]), int(defaults["num_inference_steps"])
    downscale, size = facts["latents"]["downscale"], defaults["size"]
    tokens = math.prod(size[axis] // factor for axis, factor in downscale.items())
    try:
        solver = samplers.find(facts["scheduler"], name)
        table = tables.record(solver, solver.schedule(Request(steps, tokens=tokens)))
    except EdgediffError as error:
        return {}, [f"no sampler table for {steps} steps of {name}: {error}"]
    return {f"tables/{name}-{steps}.json": tables.dumps(table).encode()}, []


def listed(files: Mapping[str, bytes], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the manifest's entries of these files."""
    chosen = {"sampler": defaults["sampler"], "num_inference_steps": defaults["num_inference_steps"]}
    return [{**chosen, "file": name} for name in files]
