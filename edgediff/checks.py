"""A bundle put to the test: its files, its graphs, and what they give beside what they gave at export."""

from __future__ import annotations

import warnings
from typing import Any

from edgediff import extents, golden
from edgediff.bundle import Bundle
from edgediff.parts import Parts

# Of the largest value. Other devices may compute in half precision, and say so nowhere.
_ON_CPU, _ELSEWHERE = 1e-3, 5e-2
# One more rounding up or down in an early layer moves what later ones round, and golden inputs are nothing
# that a network was trained on: two orders of the same sums differed by 0.26 there. Quality is measured on
# the trajectory (``verify --quality``); this says whether the arithmetic is the same at all.
_INTEGERS = 0.5


def check(bundle: Bundle, device: str = "auto", runtime: str = "auto") -> dict[str, Any]:
    """Compare all files with the manifest, then load each graph on ``device`` and run it on golden inputs.

    One graph is held at a time; a bundle without golden values draws one small picture as well. The result:
    ``files`` (count) and ``graphs``, by role the largest difference from the golden values as a share of the
    output's largest value; None where the bundle has none.

    Raises:
        IntegrityError: a file is missing or its bytes differ.
        BundleError: a file is not listed, or a graph is refused.
        CheckFailed: what a graph gives is not what it gave at export.
    """
    bundle.verify()
    wanted = golden.read(bundle)
    shares: dict[str, float | None] = {}
    for role in bundle.components:
        parts = Parts(bundle, device, runtime, verify=False)
        try:
            graph = parts.graph(role)
            shares[role] = None
            entry = golden.chosen(wanted, role, graph.info.profile)
            if entry is not None and golden.feedable(entry, graph.info.inputs, graph.info.extents):
                tolerance = _ON_CPU if graph.info.provider == "CPUExecutionProvider" else _ELSEWHERE
                if graph.info.precision.partition("+")[0] in ("int8", "mixed"):
                    tolerance = max(tolerance, _INTEGERS)
                outputs = parts.run(role, golden.inputs(entry["inputs"]))
                shares[role] = golden.compare(entry, outputs, tolerance, role)
        finally:
            parts.close()
    if None in shares.values() and (not bundle.tasks or "text2image" in bundle.tasks):
        _draw(bundle, device, runtime)
    return {"files": len(bundle.files), "graphs": shares}


def _draw(bundle: Bundle, device: str, runtime: str) -> None:
    """One small picture in one step, for a bundle without golden values."""
    from edgediff.pipeline import load

    small = {axis: max(factor, 64) // factor * factor for axis, factor in bundle.latents.downscale.items()}
    sizes: dict[str, Any] = extents.nearest(bundle, small)
    with load(bundle, device=device, runtime=runtime, verify=False) as pipe, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one step is none of the model's own settings
        chosen: dict[str, Any] = {"num_inference_steps": 1, "seed": 0, "guidance_scale": 1.0, **sizes}
        drawn = pipe("", output_type="np", **chosen).images
        if "encoder" in bundle.components:
            pipe.encode(drawn.transpose(0, 3, 1, 2) * 2 - 1)
