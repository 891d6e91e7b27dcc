"""ControlNets at work: what they add to the denoiser's own features, call by call of the network.

Zhang et al. (2023), section 3: a copy of the denoiser's encoder sees the noisy sample and a picture, and what
it gives is added to the skip connections and to the middle of the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgediff.agreement import residual
from edgediff.errors import BundleError, NumericError
from edgediff.parts import Parts
from edgediff.runtime import Tensor, fitted
from edgediff.sampler import Array, Sampler
from edgediff.schedule import Point, Schedule
from edgediff.tasks.control import Control, Controls

Residuals = dict[str, Array]
Steering = Callable[[Array, Point, Mapping[str, Tensor]], Residuals]
"""The scaled sample, the point and what else the denoiser is fed -> its inputs for residuals, by name."""


def steering(
    parts: Parts,
    controls: Controls,
    batch: int,
    guided: bool,
    sampler: Sampler,
    schedule: Schedule,
    whole: Schedule,
) -> Steering:
    """Return what steers a call of ``batch`` results; the residuals of several networks are added up.

    ``schedule`` is the part of the ``whole`` that is walked; the shares of start and end are of the whole.
    In guess mode the shallow residuals count for less, from a tenth on, and a guided call is steered in its
    positive half alone. Where no network has a say, its residuals are zeros and it does not run.
    """
    shown = {net.role: np.repeat(net.pictures, batch // len(net.pictures), 0) for net in controls.networks}
    calls = total = 1
    before = 0
    if any(net.start > 0 or net.end < 1 for net in controls.networks):
        calls, total = _calls(sampler, schedule), _calls(sampler, whole)
        skipped = schedule.skipped - whole.skipped
        before = _calls(sampler, whole.cut(0, skipped)) if skipped else 0
    halved = controls.guess and guided
    made = 0
    shapes: dict[str, tuple[int, ...]] = {}

    def steer(x: Array, at: Point, feeds: Mapping[str, Tensor]) -> Residuals:
        nonlocal made
        i, made = before + made % calls, made + 1
        half = len(x) // 2 if halved and len(x) > batch else 0  # steps without guidance have one half alone
        found: Residuals = {}
        for control in controls.networks:
            scale = control.scale if _speaks(control, i, total) else 0.0
            if scale == 0 and (shapes or found or control is not controls.networks[-1]):
                continue  # only the shapes would be new
            picture = np.concatenate([shown[control.role]] * ((len(x) - half) // batch))
            said = _run(parts, control.role, x[half:], at, feeds, picture, scale, half)
            said = _guessed(said) if controls.guess else said
            found = {name: found[name] + said[name] for name in found} if found else said
        if not found:
            return {name: np.zeros((len(x), *shape), np.float32) for name, shape in shapes.items()}
        if half:
            found = {name: np.concatenate([np.zeros_like(said), said]) for name, said in found.items()}
        shapes.update({name: said.shape[1:] for name, said in found.items()})
        return found

    return steer


def _speaks(control: Control, i: int, total: int) -> bool:
    """Say whether a network has a say in call ``i`` of ``total``: one that lies wholly between its bounds."""
    return i / total >= control.start and (i + 1) / total <= control.end


def _run(
    parts: Parts,
    role: str,
    x: Array,
    at: Point,
    feeds: Mapping[str, Tensor],
    picture: Array,
    scale: float,
    skipped: int,
) -> Residuals:
    """Run one network; of what the denoiser is fed it gets the same rows as of the sample."""
    own: dict[str, Tensor] = {
        "sample": x,
        "controlnet_cond": picture,
    }
    inputs: dict[str, Tensor] = {}
    for spec in parts.graph(role).info.inputs:
        if spec.name in ("timestep", "conditioning_scale"):
            value = at.t if spec.name == "timestep" else scale
            inputs[spec.name] = fitted(value, spec, len(x))
        elif spec.name in own or spec.name in feeds:
            found = own[spec.name] if spec.name in own else feeds[spec.name][skipped:]
            inputs[spec.name] = found.astype(spec.dtype, copy=False)
        else:
            raise BundleError(f"{role}: it reads {spec.name}, which the denoiser's model does not have.")
    residuals: Residuals = {}
    for name, said in parts.run(role, inputs).items():
        if not np.isfinite(said).all():
            raise NumericError(f"{role}: its output {name} at timestep {at.t:g} holds NaN or Inf.")
        residuals[residual(name)] = said.astype(np.float32, copy=False)
    return residuals


def _guessed(said: Residuals) -> Residuals:
    """Scale residuals from 0.1 for the first to 1 for the middle's, in equal ratios."""
    ramp = np.logspace(-1, 0, len(said), dtype=np.float32)
    shares = {name: ramp[int(place)] if (place := name.partition(".")[2]) else ramp[-1] for name in said}
    return {name: values * shares[name] for name, values in said.items()}


class _Still:
    """Noise that is none."""

    def draw(self, shape: tuple[int, ...]) -> Array:
        return np.zeros(shape, np.float32)


def _calls(sampler: Sampler, schedule: Schedule) -> int:
    """Count a walk's network calls, which are more than its hops for some samplers, on a sample of one
    number."""
    count = 0

    def denoise(x: Array, at: Point) -> Array:
        nonlocal count
        count += 1
        return np.zeros_like(x)

    for _ in sampler(denoise, np.zeros((1, 1, 1, 1), np.float32), schedule, _Still()):
        pass
    return count
