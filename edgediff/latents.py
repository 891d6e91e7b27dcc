"""Between results and latents: the autoencoder's graphs, and the scales that the manifest states."""

from __future__ import annotations

import numpy as np

from edgediff import tiling
from edgediff.bundle import Bundle, Scale
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


def decode(
    parts: Parts,
    latents: Array,
    decoder: str = "full",
    tile: int | str | None = "auto",
    progress: tiling.Progress | None = None,
) -> Array:
    """Return the picture of latents (B, C, h, w) in [-1, 1], shape (B, 3, H, W).

    Args:
        parts: the loaded bundle.
        latents: the denoiser's.
        decoder: ``full``, or ``tiny`` where the bundle has a second, smaller one.
        tile: the side in pixels of tiles that are decoded one at a time (:mod:`edgediff.tiling`), None for
            the whole at once, ``auto`` for ``parts.decode_tile``.
        progress: told of tiles done, and tiles in all.

    Raises:
        InputError: the tile is none. UnsupportedError: there is no tiny decoder, or latents have other axes.
        NumericError: NaN or Inf.
    """
    role, scale = chosen(parts.bundle, decoder)
    scaled = latents / np.float32(scale.scaling_factor) + np.float32(scale.shift_factor)
    side = parts.decode_tile if tile == "auto" else tile
    factors = parts.bundle.latents.downscale
    if side is None or not isinstance(side, int):
        return _decoded(parts, role, scaled)
    if tuple(factors) != ("height", "width") or scaled.ndim != 4:
        raise UnsupportedError("tile_decode: only pictures are decoded in tiles.")
    pixels = tiling.checked(side, factors)
    pair = factors["height"], factors["width"]
    return tiling.blended(lambda z: _decoded(parts, role, z), scaled, pixels // max(pair), pair, progress)


def chosen(bundle: Bundle, decoder: str) -> tuple[str, Scale]:
    """Return the role of a decoder, ``full`` or ``tiny``, and the scale of what it reads.

    Raises:
        InputError: the name is unknown. UnsupportedError: the bundle has no tiny decoder.
    """
    if decoder == "full":
        facts = bundle.latents
        return "decoder", Scale(facts.scaling_factor, facts.shift_factor)
    if decoder != "tiny":
        raise InputError(f"decoder: {decoder!r} is unknown; choose full or tiny.")
    if bundle.tiny_decoder is None:
        raise UnsupportedError(
            f"decoder: {bundle.path} has no tiny decoder; export the model again with --tiny-decoder, or ask "
            "for full."
        )
    return "tiny_decoder", bundle.tiny_decoder


def _decoded(parts: Parts, role: str, scaled: Array) -> Array:
    spec = parts.graph(role).info.inputs[0]
    out = next(iter(parts.run(role, {spec.name: scaled.astype(spec.dtype, copy=False)}).values()))
    if not np.isfinite(out).all():
        raise NumericError(f"{role}: its output holds NaN or Inf; try a bundle whose decoder is fp32.")
    return out.astype(np.float32, copy=False)
