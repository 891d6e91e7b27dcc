"""The whole of a plan, measured as the receipt measures it: the same calls, seeds and ratios."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgediff import reference, tasks
from edgediff.errors import NumericError
from edgediff.export.emit.graph import Kind
from edgediff.export.emit.integers import Choice
from edgediff.export.quantize.drawings import PICTURES
from edgediff.export.quantize.extents import default_extents
from edgediff.export.quantize.recording import record
from edgediff.export.quantize.trials import Trials
from edgediff.parts import Parts
from edgediff.quality import MOST, Tally, stored
from edgediff.retrace import Lean, requests

Choices = Mapping[str, Mapping[str, Choice]]
_PASSES = 8
_ROUNDS, _FEWEST, _PATIENCE = 25, 5, 2.0  # passes, and the seconds after which fewer will do


class Whole:
    """Measures plans against what the float parent gave; the latter is recorded when it is first needed."""

    def __init__(
        self,
        trials: Trials,
        prompts: Sequence[str] | None,
        threads: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._trials, self._prompts, self._threads, self._say = trials, prompts, threads, say
        self._options = {"threads": threads, "scan": False}
        self._record: reference.Record | None = None

    @property
    def record(self) -> reference.Record:
        """What the float parent gave."""
        if self._record is None:
            trials = self._trials
            made = record(
                trials.parent, trials.model, prompts=self._prompts, threads=self._threads, report=self._say
            )
            self._record = reference.parse(made, reference.FILE)
        return self._record

    def psnr(self, choices: Choices) -> float:
        """In dB, of the final latents; of one network of pictures that of what it gives."""
        roles = set(choices)
        with self._trials.bundle_of(choices) as bundle:
            parts = Lean(bundle, "cpu", options=self._options, verify=False)
            try:
                if roles and roles <= set(PICTURES):
                    return min(self._given(parts, role) for role in roles)
                return self._drawn(parts)
            except NumericError:
                return -MOST
            finally:
                parts.close()

    def _drawn(self, parts: Parts) -> float:
        tally = Tally()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a prompt is said once, by the receipt
            plans = [tasks.plan(parts, each) for each in requests(parts.bundle, self.record)]
        for call, plan in zip(self.record.calls, plans, strict=True):
            x = plan.x
            for step in plan:
                x = step.x
            tally.add(call.latents, x)
        return stored(tally.psnr_db)

    def _given(self, parts: Parts, role: str) -> float:
        tallies: dict[str, Tally] = {}
        for each in [each for each in self.record.passes if each.role == role][:_PASSES]:
            found = parts.run(role, each.inputs)
            for name, wanted in each.outputs.items():
                tallies.setdefault(name, Tally()).add(wanted.values, wanted.pick(found[name], role))
        return min((stored(tally.psnr_db) for tally in tallies.values()), default=MOST)

    def seconds(self, choices: Mapping[str, Choice], role: str = "denoiser") -> float:
        """The median seconds of a pass of the denoiser over one row, at the model's own size."""
        part = next(part for part in self._trials.model.parts if part.role == role)
        extents = default_extents(self._trials.model, part)
        rng = np.random.default_rng(0)
        inputs = {}
        for port in part.graph.inputs:
            channels = port.value.channels
            shape: tuple[int, ...] = (1, channels)
            match port.value.kind:
                case Kind.IMAGE:
                    shape = (1, channels, *extents[port.name])
                case Kind.TOKENS:
                    shape = (1, *extents[port.name], channels)
                case Kind.TIME:
                    shape = (1,)
            inputs[port.name] = rng.standard_normal(shape, np.float32)
        with self._trials.bundle_of({role: choices}) as bundle:
            parts = Parts(bundle, "cpu", options=self._options, verify=False)
            try:
                graph = parts.graph(role)
                graph(inputs)  # the first pass allocates
                taken: list[float] = []
                while len(taken) < _FEWEST or (len(taken) < _ROUNDS and sum(taken) < _PATIENCE):
                    began = time.perf_counter()
                    graph(inputs)
                    taken.append(time.perf_counter() - began)
            finally:
                parts.close()
        return statistics.median(taken)
