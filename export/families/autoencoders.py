"""Autoencoders of the Stable Diffusion family: the full one, and the tiny one for previews and phones."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edgediff.errors import SourceError, UnsupportedError
from edgediff.export.checkpoint import autoencoder_spellings, plain_spellings
from edgediff.export.families.parts import Form, Part, parts_of
from edgediff.export.networks import autoencoder_kl, autoencoder_tiny
from edgediff.export.sources import TINY, Component, Source

_NETWORKS: dict[str, ModuleType] = {"AutoencoderKL": autoencoder_kl, "AutoencoderTiny": autoencoder_tiny}


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """Both graphs, and what the manifest says of the latents. ``downscale``: pixels per latent."""

    parts: tuple[Part, ...]
    channels: int
    downscale: int
    facts: dict[str, Any]


def build(source: Source) -> Autoencoder:
    """Read the source's ``vae``."""
    component = source.component("vae", tuple(_NETWORKS))
    network = _NETWORKS[component.class_name]
    net = network.configure(component.config, str(component.where))
    pixels = 4 * net.downscale
    # The autoencoder of SDXL reaches 6e5 inside, which half precision cannot hold; its configuration says so.
    overflows = bool(component.config.get("force_upcast", network is autoencoder_kl))
    spellings = autoencoder_spellings if network is autoencoder_kl else plain_spellings
    parts = parts_of(
        component,
        spellings,
        [
            Form("decoder", "vae_decoder", network.record_decoder(net), {"latent_sample": (4, 4)},
                 overflows=overflows),
            Form("encoder", "vae_encoder", network.record_encoder(net), {"sample": (pixels, pixels)},
                 overflows=overflows),
        ],
    )  # fmt: skip
    facts = {
        "channels": net.latent_channels,
        "axes": ["batch", "channels", "height", "width"],
        "downscale": {"height": net.downscale, "width": net.downscale},
        "scaling_factor": net.scaling_factor,
        "shift_factor": net.shift_factor,
    }
    return Autoencoder(tuple(parts), net.latent_channels, net.downscale, facts)


def tiny_decoder(source: Source, vae: Autoencoder) -> tuple[list[Part], dict[str, float] | None]:
    """The decoder of a tiny autoencoder beside the model's own, where one was named, and its scale.

    The encoder, which its checkpoint has too, is left out.

    Raises:
        UnsupportedError: it is no AutoencoderTiny. SourceError: its latents are not the model's.
    """
    found = source.components(TINY, ("AutoencoderTiny",))
    if not found:
        return [], None
    component: Component = found[0]
    where = component.where
    if component.class_name != "AutoencoderTiny":
        raise UnsupportedError(
            f"{where}: is {component.class_name}; a tiny decoder is taken from an AutoencoderTiny."
        )
    net = autoencoder_tiny.configure(component.config, str(where))
    if (net.latent_channels, net.downscale) != (vae.channels, vae.downscale):
        raise SourceError(
            f"{where}: decodes latents of {net.latent_channels} channels and {net.downscale} pixels; the "
            f"model's have {vae.channels} and {vae.downscale}. It was made for another model."
        )
    forms = [Form(TINY, "tiny_decoder", autoencoder_tiny.record_decoder(net), {"latent_sample": (4, 4)})]
    if any(name.startswith("encoder.") for name in component.tensors.entries):
        pixels = 4 * net.downscale
        encoder = autoencoder_tiny.record_encoder(net)
        forms.append(Form("encoder", "tiny_decoder", encoder, {"sample": (pixels, pixels)}))
    parts = parts_of(component, plain_spellings, forms)[:1]
    return parts, {"scaling_factor": net.scaling_factor, "shift_factor": net.shift_factor}
