"""A bundle of Core ML packages for the null runtime: a whole manifest, packages without content."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests import tiny

NAMES = {"text_encoder": "TextEncoder", "denoiser": "Unet", "decoder": "VAEDecoder", "encoder": "VAEEncoder"}
LATENT_SIZES = ((4, 4),)  # of the default size of tests/tiny.py, 32x32


def files_of(name: str) -> tuple[str, str, str]:
    """Return the model, the weights and the manifest of a package."""
    inside = f"coreml/{name}.mlpackage"
    data = f"{inside}/Data/com.apple.CoreML"
    return f"{data}/model.mlmodel", f"{data}/weights/weight.bin", f"{inside}/Manifest.json"


def component(role: str, part: dict[str, Any], sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return a component of tests/tiny.py as packages of batch 1, for these sizes of latents alone."""
    graph = copy.deepcopy(part["graphs"][0])
    model, weights, manifest = files_of(NAMES[role])
    graph |= {"runtime": "coreml", "profile": "original", "file": model, "weights": [weights, manifest]}
    used = set()
    for tensor in (*graph["inputs"], *graph["outputs"]):
        if tensor["dtype"] == "int64":
            tensor["dtype"] = "int32"
        known = {"batch": 1}
        if len(sizes) == 1:
            (h, w), f = sizes[0], 8
            known |= {"latent_height": h, "latent_width": w, "height": h * f, "width": w * f}
        tensor["dims"] = [1] if tensor["name"] == "timestep" else [known.get(d, d) for d in tensor["dims"]]
    used = {dim for tensor in graph["inputs"] for dim in tensor["dims"] if isinstance(dim, str)}
    if used:
        graph["extents"] = [{d: (h if "height" in d else w) * _factor(d) for d in used} for h, w in sizes]
    return {"graphs": [graph]}


def _factor(dim: str) -> int:
    return 1 if dim.startswith("latent") else 8


def write(
    folder: Path,
    sizes: Sequence[tuple[int, int]] = LATENT_SIZES,
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Write a bundle of packages that take these sizes of latents; ``change`` edits the manifest."""
    tiny.write_bundle(folder)
    encoder = tiny._component(
        "vae_encoder",
        [tiny._tensor("sample", "batch", 3, "height", "width")],
        tiny._tensor("latent_parameters", "batch", 8, "latent_height", "latent_width"),
    )
    for part in ("unet", "text_encoder", "vae_decoder"):
        (folder / part / "model.onnx").unlink()
        (folder / part).rmdir()
    parts = {**tiny.COMPONENTS, "encoder": encoder}
    for name in NAMES.values():
        for file in files_of(name):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(b"no package")
    manifest = tiny.manifest(folder, tasks=["text2image", "image2image", "inpaint"])
    manifest["format_version"] = "1.4"
    manifest["components"] = {role: component(role, part, sizes) for role, part in parts.items()}
    if change is not None:
        change(manifest)
    (folder / "edgediff.json").write_text(json.dumps(manifest))
    return folder
