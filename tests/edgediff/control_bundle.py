"""A bundle with networks that steer, for the null runtime: a whole manifest, graphs without content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import tiny

HIDDEN = tiny._tensor("encoder_hidden_states", "batch", tiny.LENGTH, 8)
TIMESTEP = tiny._tensor("timestep", dtype="float32")


def residuals(first: str, last: str) -> list[dict[str, Any]]:
    """Three tensors: two of the way down, one of the middle."""
    return [
        tiny._tensor(f"{first}.0", *tiny.LATENT),
        tiny._tensor(f"{first}.1", "batch", 6, *tiny.LATENT[2:]),
        tiny._tensor(last, "batch", 8, *tiny.LATENT[2:]),
    ]


def write(folder: Path, nets: int = 1, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Write a bundle with ``nets`` networks that steer and an encoder; ``change`` edits the manifest."""
    tiny.write_bundle(folder)
    file = folder / "edgediff.json"
    manifest = json.loads(file.read_text())
    parts = manifest["components"]
    parts["encoder"] = tiny._component(
        "vae_encoder",
        [tiny._tensor("sample", "batch", 3, "height", "width")],
        tiny._tensor("latent_parameters", "batch", 8, "latent_height", "latent_width"),
    )
    read = residuals("down_block_additional_residuals", "mid_block_additional_residual")
    parts["controlled_denoiser"] = tiny._component(
        "unet", [*parts["denoiser"]["graphs"][0]["inputs"], *read], tiny._tensor("out_sample", *tiny.LATENT)
    )
    given = residuals("down_block_res_samples", "mid_block_res_sample")
    picture = tiny._tensor("controlnet_cond", "batch", 3, "picture_height", "picture_width")
    scale = tiny._tensor("conditioning_scale", 1)
    roles = ["control", *(f"control_{i}" for i in range(2, nets + 1))]
    for role in roles:
        inputs = [tiny._tensor("sample", *tiny.LATENT), TIMESTEP, HIDDEN, picture, scale]
        parts[role] = tiny._component("controlnet", inputs, given[0])
        parts[role]["graphs"][0]["outputs"] = given
    manifest["model"]["tasks"] = ["text2image", "image2image", "inpaint"]
    manifest["model"]["controls"] = [{"role": role, "channels": 3} for role in roles]
    for part in ("vae_encoder", "controlnet"):
        (folder / part).mkdir()
        (folder / part / "model.onnx").write_bytes(b"no graph")
        manifest["files"][f"{part}/model.onnx"] = manifest["files"]["unet/model.onnx"]
    if change is not None:
        change(manifest)
    file.write_text(json.dumps(manifest))
    return folder
