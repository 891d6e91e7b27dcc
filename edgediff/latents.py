"""Between results and latents: the autoencoder's two graphs, and the scale that the manifest states."""

from __future__ import annotations

import numpy as np

from edgediff.errors import InputError, NumericError, UnsupportedError
from edgediff.noise import Noise
from edgediff.parts import Parts
from edgediff.sampler import Array

_OUTRIGHT = "latents"
_LOG_VARIANCE = (-30.0, 20.0)  # the bounds that the autoencoder was trained with


def encode(parts: Parts, results: Array, noise: Noise | None = None, scaled: bool = True) -> Array:
    """Return latents (B, C, h, w), scaled for the denoiser, of pictures in [-1, 1], shape (B, 3, H, W).

    With ``noise`` the posterior is sampled (one draw of the latents' shape), else its mean is taken. An
    encoder whose output is called ``latents`` gives them outright (a tiny autoencoder): nothing is drawn. One
    that gives samples of its own, as older exports do, is refused where noise was asked for. Without
    ``scaled`` they are as the autoencoder has them.
    """
    if "encoder" not in parts.bundle.components:
        raise UnsupportedError(
            f"{parts.bundle.path}: this bundle has no encoder, so it cannot start from a picture."
        )
    facts = parts.bundle.latents
    spec = parts.graph("encoder").info.inputs[0]
    given = parts.run("encoder", {spec.name: results.astype(spec.dtype, copy=False)})
    name, out = next(iter(given.items()))
    if not np.isfinite(out).all():
        raise NumericError("encoder: its output holds NaN or Inf; try a bundle whose encoder is fp32.")
    mean = out[:, : facts.channels].astype(np.float32, copy=False)
    if noise is not None and name != _OUTRIGHT:
        if out.shape[1] != 2 * facts.channels:
            raise InputError(
                f"encoder: it gives {out.shape[1]} channels, not mean and log variance of {facts.channels}; "
                "export the bundle again."
            )
        spread = np.exp(0.5 * np.clip(out[:, facts.channels :].astype(np.float32), *_LOG_VARIANCE))
        mean = mean + spread * noise.draw(mean.shape)
    return (mean - np.float32(facts.shift_factor)) * np.float32(facts.scaling_factor) if scaled else mean


def decode(parts: Parts, latents: Array) -> Array:
    """Return the decoder's picture in [-1, 1], shape (B, 3, H, W)."""
    facts = parts.bundle.latents
    scaled = latents / np.float32(facts.scaling_factor) + np.float32(facts.shift_factor)
    spec = parts.graph("decoder").info.inputs[0]
    out = next(iter(parts.run("decoder", {spec.name: scaled.astype(spec.dtype, copy=False)}).values()))
    if not np.isfinite(out).all():
        raise NumericError("decoder: its output holds NaN or Inf; try a bundle whose decoder is fp32.")
    return out.astype(np.float32, copy=False)
