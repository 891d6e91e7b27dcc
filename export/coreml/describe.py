"""What Xcode shows of a package: a sentence for the network, and one for each input and output."""

from __future__ import annotations

from edgediff.export.coreml.content import Piece, Planned
from edgediff.export.coreml.package import About
from edgediff.export.emit.graph import Kind, Port
from edgediff.export.sources import Source
from edgediff.mil_ports import feature

_NETWORKS = {
    "text_encoder": "Text encoder: token ids to states that the denoiser reads.",
    "text_encoder_2": "Second text encoder: token ids to states and a vector that the denoiser reads.",
    "denoiser": "Denoiser: predicts the noise in latents, led by text.",
    "controlled_denoiser": "Denoiser that also reads what ControlNets give.",
    "decoder": "Decoder: latents to a picture.",
    "tiny_decoder": "Tiny decoder: latents to a picture, faster and less exact.",
    "encoder": "Encoder: a picture to the mean and log-variance of its latents.",
}
_CONTROL = "ControlNet: looks at a picture and steers the denoiser."
_PORTS = {
    "input_ids": "Token ids of the prompt.",
    "sample": "Noisy latents.",
    "timestep": "The step's time, 0 to 999.",
    "encoder_hidden_states": "States of the text encoder.",
    "timestep_cond": "Embedding of the guidance scale.",
    "text_embeds": "Pooled vector of the last text encoder.",
    "time_ids": "Sizes of the picture.",
    "controlnet_cond": "The picture that steers, 0 to 1.",
    "conditioning_scale": "Strength of the ControlNet.",
    "out_sample": "The prediction.",
    "last_hidden_state": "States after the last layer.",
    "pooler_output": "Pooled vector.",
    "latent_sample": "Latents, divided by their scaling factor.",
    "latent_parameters": "Mean, then log-variance, of the latents.",
    "mid_block_res_sample": "Residual for the denoiser's middle.",
    "mid_block_additional_residual": "ControlNet's residual for the middle.",
}
_PREFIXES = {
    "hidden_states.": "States before a layer, without the final norm.",
    "clip_skip.": "What the last states would be without the last layers.",
    "down_block_res_samples.": "Residual for one of the denoiser's skip connections.",
    "down_block_additional_residuals.": "ControlNet's residual for one of the skip connections.",
}
_PICTURES = {
    ("decoder", "sample"): "The picture, -1 to 1.",
    ("tiny_decoder", "sample"): "The picture, -1 to 1.",
    ("encoder", "sample"): "A picture, -1 to 1.",
}


def about(planned: Planned, piece: Piece, source: Source, version: str, precision: str) -> About:
    """The texts of one package. Nothing of them changes from one export to the next."""
    role = planned.part.role
    network = _NETWORKS.get(role, _CONTROL)
    if piece.graph is not planned.part.graph:
        network += f" Part {2 if piece.crossing else 1} of 2."
    signature = piece.signature
    ports = (*signature.inputs_of(piece.graph), *signature.outputs_of(piece.graph))
    return About(
        description=f"{network} From {source.label}.",
        version=version,
        license=source.license or source.origin().get("license"),
        features={feature(signature.name(port)): _text(role, port) for port in ports},
        more={
            "com.edgediff.attention": planned.form.attention,
            "com.edgediff.precision": precision if planned.form.half else "fp32",
        },
    )


def _text(role: str, port: Port) -> str:
    if (role, port.name) in _PICTURES:
        return _PICTURES[role, port.name]
    if port.name in _PORTS:
        return _PORTS[port.name]
    for prefix, text in _PREFIXES.items():
        if port.name.startswith(prefix):
            return text
    return "A value between the two parts." if port.value.kind in (Kind.IMAGE, Kind.TOKENS) else ""
