"""Tiny diffusers pipelines of the kinds that are told a picture, with random weights."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests import tiny, tiny_xl


def instruct(folder: Path, scheduler: Any, xl: bool = False) -> Any:
    """Save an InstructPix2Pix pipeline to ``folder`` and return it."""
    import diffusers
    import torch

    torch.set_num_threads(1)
    base = (tiny_xl if xl else tiny).pipeline(folder.parent / "base", scheduler)
    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel.from_config({**base.unet.config, "in_channels": 8})
    parts = {**_parts(base), "unet": unet.eval()}
    if xl:
        parts.pop("image_encoder")
        pipe = diffusers.StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False)
        return _saved(pipe, folder)
    pipe = diffusers.StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)
    return _saved(pipe, folder)


def control(folder: Path, scheduler: Any, nets: int = 1, kind: str = "StableDiffusionPipeline") -> Any:
    """Save a ControlNet pipeline with ``nets`` networks over a pipeline of ``kind``, and return it."""
    import diffusers
    import torch

    torch.set_num_threads(1)
    xl = "XL" in kind
    place = folder.parent / "base"
    if xl:
        base = tiny_xl.pipeline(place, scheduler, kind)
    else:
        base = tiny.pipeline(place, scheduler, 8 if kind.startswith("LatentConsistency") else None, kind)
    own = inspect.signature(diffusers.ControlNetModel).parameters.keys() & base.unet.config.keys()
    shared = {key: base.unet.config[key] for key in own - {"in_channels", "mid_block_type"}}
    widths = (8,) + (16,) * len(base.vae.config.block_out_channels[1:])  # halve as often as the autoencoder
    made = []
    for i in range(nets):
        torch.manual_seed(10 + i)
        net = diffusers.ControlNetModel(**shared, conditioning_embedding_out_channels=widths)
        with torch.no_grad():
            for name, weight in net.named_parameters():
                if name.startswith(("controlnet_", "controlnet_cond_embedding")):
                    weight.normal_(std=0.3)  # they begin as zeros, which would steer nothing
        made.append(net.eval())
    parts = {**_parts(base), "controlnet": made[0] if nets == 1 else made}
    if xl:
        return _saved(diffusers.StableDiffusionXLControlNetPipeline(**parts, add_watermarker=False), folder)
    pipe = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    return _saved(pipe, folder)


def _parts(pipe: Any) -> dict[str, Any]:
    return {
        name: part for name, part in pipe.components.items() if part is not None or name == "image_encoder"
    } | ({} if "text_encoder_2" in pipe.components else {"safety_checker": None, "feature_extractor": None})


def _saved(pipe: Any, folder: Path) -> Any:
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def scheduler(class_name: str, options: dict[str, Any]) -> Any:
    """Return a scheduler of Stable Diffusion's noise levels."""
    import diffusers

    return getattr(diffusers, class_name)(**BETAS, **options)


def picture(seed: int = 0, width: int = 24, height: int = 16) -> Image.Image:
    """A picture with content at every scale; its sides are no multiples of 64."""
    rows, columns = np.mgrid[0:height, 0:width]
    base = np.stack([rows * 12, columns * 9, (rows + columns + 40 * seed) % 64 * 4], axis=-1)
    rough = np.random.RandomState(seed).randint(0, 60, base.shape)
    return Image.fromarray(np.clip(base + rough, 0, 255).astype(np.uint8))


def generators(seed: Any) -> Any:
    """Return torch's generators for a seed, or for a list of them."""
    import torch

    if isinstance(seed, list):
        return [torch.Generator().manual_seed(s) for s in seed]
    return torch.Generator().manual_seed(seed)


def difference(expected: Any, got: Any) -> float:
    """Return the largest difference of two batches of pictures in [0, 1], in units of 1/255."""
    one, other = np.asarray(expected, np.float32), np.asarray(got, np.float32)
    assert one.shape == other.shape
    assert other.std() > 0.01, "a flat picture would agree with anything"
    return float(np.abs(one - other).max()) * 255


def mask(width: int = 24, height: int = 16) -> Image.Image:
    """A blob off the middle, sides that are no multiple of a latent cell."""
    shape = np.zeros((height, width), np.uint8)
    shape[3 : height - 3, 5 : width - 7] = 255
    return Image.fromarray(shape)
