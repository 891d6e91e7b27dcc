"""From a network's raw prediction to the clean sample, and what may be wrapped around it.

Features are functions: each takes a network (or a denoiser) and returns another. Guidance combines raw
outputs; the conversion to the clean sample comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edgediff.errors import BundleError, NumericError
from edgediff.sampler import Array, Denoiser
from edgediff.schedule import Config, Point

Network = Callable[[Array, Point], Array]
"""A scaled noisy sample at a point -> the raw prediction (epsilon, v, clean or flow), same shape."""


class Form(NamedTuple):
    """``clean = skip * x + out * network(scale * x)`` at one point."""

    scale: float
    skip: float
    out: float


Conversion = Callable[[Point], Form]
"""What a network's raw output means, by point."""


def conversion(prediction_type: str) -> Conversion:
    """Return what ``epsilon``, ``v_prediction``, ``sample`` or ``flow_prediction`` means.

    Networks of the first three kinds were trained on variance-preserving samples, so the input is divided by
    r = sqrt(alpha^2 + sigma^2), which is 1 unless the sampler works in sigma space. v is
    alpha * noise - sigma * clean (Salimans and Ho, 2022, eq. 11 and appendix D); flow is noise - clean.

    Raises:
        BundleError: the prediction type is unknown, or epsilon is asked for where alpha is 0.
    """
    known: dict[str, Conversion] = {
        "epsilon": _epsilon,
        "v_prediction": lambda at: _scaled(at, at.alpha, -at.sigma),
        "sample": lambda at: _scaled(at, 0.0, 1.0),
        "flow_prediction": lambda at: Form(1.0, *(v / (at.alpha + at.sigma) for v in (1.0, -at.sigma))),
    }
    if prediction_type not in known:
        raise BundleError(f"prediction_type {prediction_type!r} is unknown; use {', '.join(known)}.")
    return known[prediction_type]


def _scaled(at: Point, skip: float, out: float) -> Form:
    """Scale the input to r = 1 and write x, which is r times that input, in its place."""
    radius = math.hypot(at.alpha, at.sigma)
    if abs(radius - 1) < 1e-6:
        return Form(1.0, skip, out)
    return Form(1 / radius, skip / radius**2, out if out == 1 else out / radius)


def _epsilon(at: Point) -> Form:
    if at.alpha == 0:
        raise BundleError(
            "prediction_type epsilon says nothing about the sample at zero SNR; use v_prediction."
        )
    scale = _scaled(at, 0.0, 1.0).scale
    return Form(scale, 1 / at.alpha, -at.sigma / at.alpha)


def denoiser(network: Network, conversion: Conversion) -> Denoiser:
    """Return the denoiser of a network whose outputs mean what ``conversion`` says."""

    def denoise(x: Array, at: Point) -> Array:
        scale, skip, out = conversion(at)
        raw = network(x if scale == 1 else x * scale, at)
        if skip == 0:
            return raw if out == 1 else raw * out
        return skip * x + out * raw

    return denoise


def guided(network: Network, scale: float, rescale: float = 0.0) -> Network:
    """Classifier-free guidance (Ho and Salimans, 2022, eq. 6, in diffusers' scaling: 1 means none).

    ``network`` is called once with the batch twice: negatives first, then positives. ``rescale`` pulls the
    standard deviation of each picture's prediction back to the positive one's (Lin et al., 2023, section
    3.4).
    """

    def combined(x: Array, at: Point) -> Array:
        negative, positive = np.split(network(np.concatenate([x, x]), at), 2)
        out: Array = negative + scale * (positive - negative)
        return rescaled(out, positive, rescale)

    return combined


def guided_twice(network: Network, scale: float, image_scale: float, rescale: float = 0.0) -> Network:
    """Guidance by a text and by a picture (Brooks et al., 2023, InstructPix2Pix, eq. 3).

    ``network`` is called once with the batch three times: told text and picture, told the picture alone, told
    neither. ``rescale`` is that of :func:`guided`.
    """

    def combined(x: Array, at: Point) -> Array:
        both, picture, neither = np.split(network(np.concatenate([x, x, x]), at), 3)
        out: Array = neither + scale * (both - picture) + image_scale * (picture - neither)
        return rescaled(out, both, rescale)

    return combined


def rescaled(out: Array, positive: Array, share: float) -> Array:
    """Pull each picture's standard deviation back to that of ``positive`` (Lin et al., 2023, section 3.4)."""
    if share == 0:
        return out
    axes = tuple(range(1, out.ndim))
    ratio = positive.std(axis=axes, keepdims=True) / out.std(axis=axes, keepdims=True)
    mixed: Array = share * (out * ratio) + (1 - share) * out
    return mixed


def finite(network: Network) -> Network:
    """Stop at the first NaN or Inf, before it spreads."""

    def checked(x: Array, at: Point) -> Array:
        out = network(x, at)
        if not np.isfinite(out).all():
            raise NumericError(f"denoiser: its output at timestep {at.t:g} holds NaN or Inf.")
        return out

    return checked


def guidance_embedding(scale: float, dims: int) -> Array:
    """Return the embedding of a guidance scale for networks distilled with it, shape (1, dims).

    Sines then cosines of 1000 * (scale - 1), as diffusers' ``get_guidance_scale_embedding`` (Meng et al.,
    2023).
    """
    half = dims // 2
    frequencies = np.exp(np.arange(half) * (-math.log(10000.0) / max(half - 1, 1)))
    angles = 1000.0 * (scale - 1) * frequencies
    row = np.zeros((1, dims), np.float32)
    row[0, : 2 * half] = np.concatenate([np.sin(angles), np.cos(angles)])
    return row


class Limit(NamedTuple):
    """What may be done to a clean prediction beyond linear combinations: an operation that has a name."""

    name: str
    values: tuple[float, ...]

    def __call__(self, clean: Array) -> Array:
        """Return ``clean`` limited; symbolic tensors record the operation."""
        if hasattr(clean, "limited"):
            recorded: Array = clean.limited(self)
            return recorded
        return LIMITS[self.name](clean, *self.values)


def clip(clean: Array, bound: float) -> Array:
    """Clip to [-bound, bound]."""
    return np.clip(clean, -bound, bound)


def threshold(clean: Array, ratio: float, highest: float) -> Array:
    """Dynamic thresholding (Saharia et al., 2022, section 2.3): clip to a quantile of |clean|, divide by it.

    The quantile ``ratio`` is taken per batch entry and bounded to [1, highest].
    """
    flat = clean.reshape(len(clean), -1)
    bound = np.clip(np.quantile(np.abs(flat), ratio, axis=1, keepdims=True), 1.0, max(highest, 1.0))
    limited: Array = (np.clip(flat, -bound, bound) / bound).astype(clean.dtype).reshape(clean.shape)
    return limited


LIMITS: dict[str, Callable[..., Array]] = {"clip": clip, "threshold": threshold}


def limit_of(config: Config) -> Limit | None:
    """Return what a configuration does to clean predictions: dynamic thresholding, clipping or nothing."""
    if config["thresholding"]:
        return threshold_of(config)
    if config["clip_sample"]:
        return Limit("clip", (float(config["clip_sample_range"]),))
    return None


def threshold_of(config: Config) -> Limit | None:
    """Return dynamic thresholding if the configuration asks for it."""
    if not config["thresholding"]:
        return None
    values = (float(config["dynamic_thresholding_ratio"]), float(config["sample_max_value"]))
    return Limit("threshold", values)
