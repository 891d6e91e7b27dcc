"""From a network's raw prediction to the clean sample, and what may be wrapped around it.

Features are functions: each takes a network (or a denoiser) and returns another. Guidance combines raw
outputs; the conversion to the clean sample comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgediff.errors import BundleError, NumericError
from edgediff.sampler import Array, Denoiser
from edgediff.schedule import Config, Point

Network = Callable[[Array, Point], Array]
"""A scaled noisy sample at a point -> the raw prediction (epsilon, v, clean or flow), same shape."""
Limit = Callable[[Array], Array]


def denoiser(network: Network, prediction_type: str) -> Denoiser:
    """Return the denoiser of a network that predicts ``epsilon``, ``v_prediction``, ``sample`` or
    ``flow_prediction``.

    Networks of the first three kinds were trained on variance-preserving samples, so the input is divided by
    r = sqrt(alpha^2 + sigma^2), which is 1 unless the sampler works in sigma space. v is
    alpha * noise - sigma * clean (Salimans and Ho, 2022, eq. 11 and appendix D); flow is noise - clean.

    Raises:
        BundleError: the prediction type is unknown, or epsilon is asked for where alpha is 0.
    """
    if prediction_type not in ("epsilon", "v_prediction", "sample", "flow_prediction"):
        raise BundleError(
            f"prediction_type {prediction_type!r} is unknown; use epsilon, v_prediction, sample or "
            "flow_prediction."
        )

    def denoise(x: Array, at: Point) -> Array:
        flow = prediction_type == "flow_prediction"
        radius = 1.0 if flow else math.hypot(at.alpha, at.sigma)
        scaled: Array = x if abs(radius - 1) < 1e-6 else np.multiply(x, np.float32(1 / radius))
        out = network(scaled, at)
        if prediction_type == "sample":
            return out
        if prediction_type == "v_prediction":
            return (at.alpha / radius**2) * x - (at.sigma / radius) * out
        if flow:
            clean: Array = (x - at.sigma * out) * np.float32(1 / (at.alpha + at.sigma))
            return clean
        if at.alpha == 0:
            raise BundleError(
                "prediction_type epsilon says nothing about the sample at zero SNR; use v_prediction."
            )
        return (1 / at.alpha) * x + (-at.sigma / at.alpha) * out

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
        if rescale > 0:
            axes = tuple(range(1, out.ndim))
            ratio = positive.std(axis=axes, keepdims=True) / out.std(axis=axes, keepdims=True)
            out = rescale * (out * ratio) + (1 - rescale) * out
        return out

    return combined


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


def limit_of(config: Config) -> Limit | None:
    """Return what a configuration does to clean predictions: dynamic thresholding, clipping or nothing."""
    if config["thresholding"]:
        return threshold_of(config)
    if config["clip_sample"]:
        bound = float(config["clip_sample_range"])
        return lambda clean: np.clip(clean, -bound, bound)
    return None


def threshold_of(config: Config) -> Limit | None:
    """Return dynamic thresholding (Saharia et al., 2022, section 2.3) if the configuration asks for it."""
    if not config["thresholding"]:
        return None
    ratio, highest = float(config["dynamic_thresholding_ratio"]), float(config["sample_max_value"])

    def threshold(clean: Array) -> Array:
        flat = clean.reshape(len(clean), -1)
        bound = np.clip(np.quantile(np.abs(flat), ratio, axis=1, keepdims=True), 1.0, max(highest, 1.0))
        limited: Array = (np.clip(flat, -bound, bound) / bound).astype(np.float32).reshape(clean.shape)
        return limited

    return threshold
