"""What the configurations of a folder of ONNX graphs say of the model, for its manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgediff import optimum_folder
from edgediff.bundle import Bundle, Defaults, GraphSpec, Latents
from edgediff.errors import SourceError
from edgediff.export.families.defaults import sampler_name
from edgediff.export.json_files import read_json
from edgediff.export.optimum.graph_files import GraphFile

ROLES = {**optimum_folder.FOLDERS, "text_encoder_3": "text_encoder_3", "transformer": "denoiser"}
UNDRIVEN = "none"  # the one task of a model whose graphs run while edgediff has no loop for them
_FAMILIES = {"stable-diffusion3": "stable-diffusion-3", "pix-art-alpha": "pixart", "pix-art-sigma": "pixart"}
_STEPS = {"stable-diffusion-3": (28, 7.0), "flux": (28, 3.5), "sana": (20, 4.5), "pixart": (20, 4.5)}


def facts_of(folder: Path, index: Mapping[str, Any], graphs: Mapping[str, GraphFile]) -> Bundle:
    """Return the bundle that a folder amounts to; ``graphs`` is by folder name.

    Models of a family that edgediff cannot draw with yet get the one task ``none`` and no text settings.
    """
    if optimum_folder.covers(optimum_folder.pipeline_class(index)):
        return optimum_folder.open_folder(folder, _missing_configs(folder, graphs))
    return _undriven(folder, index, graphs)


def family_of(pipeline: str) -> str:
    """Return a family's name for a pipeline class: ``SanaPipeline`` gives ``sana``."""
    bare = re.sub(r"(Img2Img|Inpaint|Control)?Pipeline$", "", pipeline)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", bare).lower()
    return _FAMILIES.get(words, words)[:64]


def _undriven(folder: Path, index: Mapping[str, Any], graphs: Mapping[str, GraphFile]) -> Bundle:
    family = family_of(optimum_folder.pipeline_class(index))
    vae = read_json(folder / "vae_decoder" / "config.json")
    levels = vae.get("block_out_channels", vae.get("decoder_block_out_channels"))
    if not isinstance(levels, list) or not levels:
        raise SourceError(f"{folder / 'vae_decoder' / 'config.json'}: block_out_channels is missing.")
    factor = 2 ** (len(levels) - 1)
    network = "transformer" if "transformer" in graphs else "unet"
    side = read_json(folder / network / "config.json").get("sample_size")
    side = side if isinstance(side, int) and 0 < side <= 4096 else 1024 // factor
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json", unbounded=True)
    steps, guidance = _STEPS.get(family, (20, 5.0))
    return Bundle(
        path=folder,
        family=family,
        tasks=(UNDRIVEN,),
        scheduler=scheduler,
        latents=Latents(
            channels=_whole(vae.get("latent_channels"), 4),
            axes=("batch", "channels", "height", "width"),
            downscale={"height": factor, "width": factor},
            scaling_factor=_positive(vae.get("scaling_factor"), 1.0),
            shift_factor=_number(vae.get("shift_factor"), 0.0),
        ),
        defaults=Defaults(
            sampler=sampler_name(str(scheduler.get("_class_name", ""))) or None,
            num_inference_steps=steps,
            guidance_scale=guidance,
            size={"height": side * factor, "width": side * factor},
        ),
        components={
            ROLES[name]: (GraphSpec("onnxruntime", "portable", f"{name}/model.onnx", graph.precision),)
            for name, graph in graphs.items()
        },
    )


def _missing_configs(folder: Path, graphs: Mapping[str, GraphFile]) -> dict[str, dict[str, Any]]:
    """What the tensors' shapes tell where an old export left no ``config.json`` behind."""
    found: dict[str, dict[str, Any]] = {}
    for name, graph in graphs.items():
        if (folder / name / "config.json").is_file():
            continue
        shapes = graph.shapes
        if name == "unet" and (shape := shapes.get("conv_in.weight")):
            found[name] = {"in_channels": shape[1]}
        elif name == "vae_decoder" and (shape := shapes.get("post_quant_conv.weight")):
            blocks = {int(m[1]) for key in shapes if (m := re.match(r"decoder\.up_blocks\.(\d{1,2})\.", key))}
            found[name] = {"latent_channels": shape[1], "block_out_channels": [1] * (len(blocks) or 4)}
        elif shape := shapes.get("text_model.embeddings.position_embedding.weight"):
            found[name] = {"max_position_embeddings": shape[0]}
    return found


def _whole(value: Any, default: int) -> int:
    return value if type(value) is int and 1 <= value <= 65536 else default


def _number(value: Any, default: float) -> float:
    return float(value) if type(value) in (int, float) else default


def _positive(value: Any, default: float) -> float:
    found = _number(value, default)
    return found if found > 0 else default
