"""A plan: everything that one result needs, ready to be walked. Nothing runs until somebody iterates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgediff.errors import NumericError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Plan:
    """``x`` is the start, already scaled; ``decode`` turns the last sample into the task's result.

    ``finish``, where there is one, is done to the last sample before it is yielded (what inpainting keeps).
    """

    denoise: Denoiser
    x: Array
    schedule: Schedule
    sampler: Sampler
    noise: Noise
    decode: Callable[[Array], Any]
    finish: Callable[[Array], Array] | None = None

    def __iter__(self) -> Iterator[Step]:
        """Walk the schedule, one Step per hop. Whoever writes into ``step.x`` changes what comes next.

        Raises:
            NumericError: a sample is not finite; the message names the step.
        """
        walk = self.sampler(self.denoise, self.x, self.schedule, self.noise)
        done = 0
        while True:
            try:
                step = next(walk, None)
                if step is not None and not np.isfinite(step.x).all():
                    raise NumericError("sampler: the sample holds NaN or Inf.")
            except NumericError as error:
                raise NumericError(f"step {done + 1} of {len(self)}: {error}") from error
            if step is None:
                return
            done = step.i + 1
            if self.finish is not None and done == len(self):
                step = step._replace(x=self.finish(step.x))
            yield step

    def __len__(self) -> int:
        return len(self.schedule.hops)

    def run(self) -> Any:
        """Walk to the end and decode."""
        x = self.x
        for step in self:
            x = step.x
        return self.decode(x)
