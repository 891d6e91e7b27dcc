"""ControlNets of a pipeline: networks that look at a picture and steer the denoiser (Zhang et al. 2023)."""

from __future__ import annotations

from typing import Any

from edgediff.errors import SourceError
from edgediff.export.checkpoint import plain_spellings
from edgediff.export.families.parts import Form, Part, parts_of
from edgediff.export.networks import controlnet
from edgediff.export.networks.unet2d_condition import UNet2DCondition
from edgediff.export.sources import Source


def build(source: Source, unet: UNet2DCondition, ids: int) -> tuple[tuple[Part, ...], list[dict[str, Any]]]:
    """Graphs and the manifest's entries of every ControlNet; none where the model has none."""
    parts: list[Part] = []
    facts: list[dict[str, Any]] = []
    for i, component in enumerate(source.components("controlnet", ("ControlNetModel",))):
        net = controlnet.configure(component.config, str(component.where))
        if net.context != unet.context:
            raise SourceError(
                f"{component.where}: reads text of {net.context} channels, the text encoders give "
                f"{unet.context}. It was made for another model."
            )
        if net.trunk.skips != unet.trunk.skips:
            raise SourceError(
                f"{component.where}: gives {len(net.trunk.skips)} residuals that do not fit the unet's "
                f"{len(unet.trunk.skips)}. It was made for another model."
            )
        role = "control" if i == 0 else f"control_{i + 1}"
        folder = role.replace("control", "controlnet")
        side = net.grid * net.downscale
        trial = {
            "sample": (net.grid, net.grid),
            "encoder_hidden_states": (8,),
            "controlnet_cond": (side, side),
        }
        graph = controlnet.record(net, ids=ids)
        parts += parts_of(component, plain_spellings, [Form(role, folder, graph, trial)])
        facts.append({"role": role, "channels": net.condition_channels})
    return tuple(parts), facts
