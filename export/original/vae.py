"""The configuration of an autoencoder from its tensors' shapes, in the original layout or diffusers'.

The latents' scale is not among the tensors: it is the model family's (Rombach et al. 2022: 0.18215; SDXL,
Podell et al. 2023: 0.13025), and another autoencoder of the family is trained to keep it.
"""

from __future__ import annotations

from typing import Any

from edgediff.errors import SourceError
from edgediff.export.original.shapes import Shapes

_CHANNELS = 4  # of the latents whose scales are known


def is_original(shapes: Shapes) -> bool:
    """Whether the names are those of the original layout."""
    return "decoder.mid.block_1.conv1.weight" in shapes


def is_diffusers(shapes: Shapes) -> bool:
    """Whether the names are diffusers' for an ``AutoencoderKL``."""
    return "decoder.mid_block.resnets.0.conv1.weight" in shapes


def is_tiny(shapes: Shapes) -> bool:
    """Whether the names are diffusers' for an ``AutoencoderTiny``."""
    return "decoder.layers.0.weight" in shapes and "encoder.layers.0.weight" in shapes


def vae_config(shapes: Shapes, xl: bool) -> dict[str, Any]:
    """What the ``config.json`` of this ``AutoencoderKL`` would say in a model of the SDXL family or not.

    Raises:
        SourceError: the tensors are not those of an ``AutoencoderKL`` whose latents' scale is known.
    """
    level, layer, convolution = "down.{}", "block.{}", "conv1.weight"
    if not is_original(shapes):
        level, layer = "down_blocks.{}", "resnets.{}"
    attention = "encoder.mid.attn_1.q.weight" if is_original(shapes) else "encoder.mid_block.attentions.0"
    widths, layers = [], set()
    for i in range(shapes.count(f"encoder.{level}.{layer.format(0)}.{convolution}")):
        path = f"encoder.{level.format(i)}"
        widths.append(shapes.of(f"{path}.{layer.format(0)}.{convolution}", 4)[0])
        layers.add(shapes.count(f"{path}.{layer}.{convolution}"))
    if len(layers) != 1:
        raise SourceError(
            f"{shapes.where}: its autoencoder has no encoder, or an uneven one; both halves are needed."
        )
    latents = shapes.of("decoder.conv_in.weight", 4)[1]
    _check_latents(shapes, latents)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes.of("encoder.conv_in.weight", 4)[1],
        "out_channels": shapes.of("decoder.conv_out.weight", 4)[0],
        "latent_channels": latents,
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": layers.pop(),
        "mid_block_add_attention": any(name.startswith(attention) for name in shapes),
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "sample_size": 1024 if xl else 512,
        "scaling_factor": 0.13025 if xl else 0.18215,
        "force_upcast": xl,
    }


def tiny_config(shapes: Shapes) -> dict[str, Any]:
    """The same for an ``AutoencoderTiny`` of the published depth; its latents need no scale."""
    latents = shapes.of("decoder.layers.0.weight", 4)[1]
    _check_latents(shapes, latents)
    return {"_class_name": "AutoencoderTiny", "latent_channels": latents}


def _check_latents(shapes: Shapes, found: int) -> None:
    if found != _CHANNELS:
        raise SourceError(
            f"{shapes.where}: its autoencoder's latents have {found} channels; their scale is known for "
            f"{_CHANNELS} only. Give the autoencoder as a folder with its config.json."
        )
