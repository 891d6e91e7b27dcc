"""Passes of a small part of the denoiser between whole ones, on long schedules.

DeepCache (Ma et al., 2024, "DeepCache: Accelerating Diffusion Models for Free"): what the deep layers of a
U-Net give changes slowly from step to step. At every N-th step the whole network runs and its deep features
are kept; at the others a second, shallow graph reads them, and computes the outermost layers alone from the
step's own sample and time. A bundle has that graph if it was exported with ``--step-cache``.
``benchmarks/step_cache.py`` measures the loss, beside that of a walk of fewer steps.
"""

from __future__ import annotations

from collections.abc import Callable

from edgediff.bundle import Bundle
from edgediff.errors import InputError, UnsupportedError
from edgediff.runtime import Tensor
from edgediff.schedule import Point, Schedule

ROLE, FEATURES = "shallow_denoiser", "deep_features"
MOST = 10
FEWEST = 12
"""Steps of a walk below which nothing is reused: features change too much from one step to the next."""


class Kept:
    """The deep features of the last whole pass; ``skips`` says at which points they are read again."""

    def __init__(self, skips: Callable[[Point], bool]) -> None:
        self._skips = skips
        self.features: Tensor | None = None

    def at(self, point: Point, rows: int) -> Tensor | None:
        """Return the features for a shallow pass over ``rows`` rows, None where the whole network is due."""
        if not self._skips(point) or self.features is None or len(self.features) != rows:
            return None
        return self.features


def kept(schedule: Schedule, every: int) -> Kept:
    """Return what keeps features over a walk: whole passes at its first step and every ``every``-th one."""
    whole = {here for here, _ in schedule.hops[::every]}
    return Kept(lambda at: at not in whole)


def check(bundle: Bundle, schedule: Schedule, every: int, steered: bool) -> None:
    """Refuse a walk that cannot reuse features.

    Raises:
        UnsupportedError: the bundle has no shallow graph. InputError: the walk is too short, or is steered.
    """
    if ROLE not in bundle.components:
        raise UnsupportedError(
            f"step_cache: {bundle.path} has no shallow denoiser; export the model again with --step-cache."
        )
    if steered:
        raise InputError("step_cache: what is steered by pictures runs the whole network at each step.")
    least = max(FEWEST, 3 * every)
    if len(schedule.hops) < least:
        raise InputError(
            f"step_cache {every}: it is for walks of {least} steps or more, this one has "
            f"{len(schedule.hops)}; ask for more steps, or leave it out."
        )
