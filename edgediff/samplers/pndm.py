"""PNDM: Liu et al. (2022, arXiv:2202.09778), eq. 9 (the transfer) and algorithm 2.

Adams and Bashforth's fourth-order method combines what the network said at the last four timesteps, and the
transfer moves the sample along it; the first steps are Runge-Kutta's, or of lower order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from edgediff.errors import InputError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers._levels import points, refuse, whole_timesteps
from edgediff.schedule import Config, Point, Request, Schedule

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "skip_prk_steps": False, "set_alpha_to_one": False, "prediction_type":
    "epsilon", "timestep_spacing": "leading", "steps_offset": 0,
}  # fmt: skip
SUPPORTED = {"prediction_type": ("epsilon", "v_prediction")}

ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the last outputs, newest first."""
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
WARM_UP = 12  # three Runge-Kutta steps of four calls


def schedule(config: Config, request: Request) -> Schedule:
    """One hop per call of the network. Hops go from t to t - T // n, as DDIM's do.

    Without the Runge-Kutta start the second timestep stands twice: its first call repeats the first hop. With
    it, the four hops of a Runge-Kutta step end where each of its stages ends.
    """
    refuse(request, "timesteps", "sigmas")
    times = list(whole_timesteps(config, request))
    stride = config["num_train_timesteps"] // len(times)
    point = points(config)
    hops = []
    if config["skip_prk_steps"]:
        times[1:1] = times[1:2]
    elif len(times) < 4:
        raise InputError(
            f"steps: {request.steps} were asked for, but PNDM's Runge-Kutta start needs at least 4 (a "
            "configuration with skip_prk_steps has none)."
        )
    else:
        half = stride // 2
        for t, after in itertools.pairwise(times[:4]):
            stages = ((t, t - half), (after + half, after + half), (after + half, after), (after, after))
            hops += [(point(a), point(b)) for a, b in stages]
        times = times[3:]
    hops += [(point(t), point(t - stride)) for t in times]
    return Schedule(1.0, tuple(hops))


def sampler(config: Config) -> Sampler:
    """Return PNDM; it draws no noise."""
    point = points(config)
    velocity = config["prediction_type"] == "v_prediction"
    warm_up = 0 if config["skip_prk_steps"] else WARM_UP

    def pndm(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        if warm_up and schedule.skipped:
            raise InputError("PNDM's Runge-Kutta start cannot begin part way; name another sampler.")
        past: list[Array] = []
        start, origin, mean = x, schedule.hops[0][0], x
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here)
            output = _output(x, clean, here, velocity)
            if i < warm_up:
                stage = i % 4
                if stage == 0:
                    start, origin = x, here
                    past = [output, *past]
                part = RUNGE_KUTTA[stage] * output
                mean = mean + part if stage else part
                x = _transferred(start, output if stage < 3 else mean, origin, there, velocity)
            elif i == 1 and not warm_up:
                # The first hop again, with the mean of the outputs at both of its ends. diffusers takes the
                # beginning of that hop for one stride above its end, also where the list says otherwise: for
                # other spacings than leading, and for a walk that starts at the repeated timestep.
                origin = point(here.t + (here.t - there.t))
                mean = 0.5 * output + 0.5 * past[0]
                x = _transferred(start, mean, origin, here, velocity)
            else:
                past = [output, *past[:3]]
                x = _transferred(x, combined(past), here, there, velocity)
            yield Step(i, x, clean)

    return pndm


def _output(x: Array, clean: Array, at: Point, velocity: bool) -> Array:
    """Return what the network said, from the clean sample that it means: the method combines these."""
    if velocity:
        return (at.alpha / at.sigma) * x - (1 / at.sigma) * clean
    return (1 / at.sigma) * x - (at.alpha / at.sigma) * clean


def combined(past: list[Array]) -> Array:
    """Return the weighted sum of up to four outputs, newest first: the order is their number."""
    weights = ADAMS[len(past) - 1]
    total: Array = weights[0] * past[0]
    for weight, output in zip(weights[1:], past[1:], strict=True):
        total = total + weight * output
    return total


def _transferred(x: Array, output: Array, here: Point, there: Point, velocity: bool) -> Array:
    """Eq. 9, which is DDIM's step: x = alpha * clean + sigma * eps, at another level.

    x and v are that vector's coordinates in two directions at right angles, so for v the step is a rotation.
    """
    if velocity:
        turned = here.alpha * there.alpha + here.sigma * there.sigma
        return turned * x + (there.sigma * here.alpha - there.alpha * here.sigma) * output
    ratio = there.alpha / here.alpha
    return ratio * x + (there.sigma - ratio * here.sigma) * output
