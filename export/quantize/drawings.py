"""How far a trial is from its float parent: in the final latents, or in what a picture's network gives.

Errors are mean squares as a share of the square of the parent's range: -10 log10 of one is a PSNR in dB.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, log10
from typing import Any

import numpy as np

from edgediff import tasks
from edgediff.bundle import Bundle
from edgediff.errors import InputError, NumericError
from edgediff.export.emit.integers import Choice
from edgediff.export.quantize import scenes
from edgediff.export.quantize.budget import work_of
from edgediff.export.quantize.trajectory import PICTURES as PICTURES
from edgediff.export.quantize.trajectory import Watched, asked, decode, draw, encode, passes
from edgediff.export.quantize.trials import Trials
from edgediff.runtime import Graph, Tensor

Array = np.ndarray[Any, Any]
Distance = Callable[[Sequence[Array], Sequence[Array]], float]
_SIDE = 256  # pixels of a side that decoders and encoders are judged on: what they do is local
_SHOWN = 8
_WORST = 1e9  # stands for an error that is not finite
_LEAST = 1e-15  # stands for no error where a logarithm is taken
_BATCH = 16
_FEW = 2


@dataclass(frozen=True, slots=True)
class Walk:
    """How many prompts a measurement draws, in how many steps (None: the bundle's own).

    ``guided`` as the bundle does; otherwise each step is one pass over the prompt, where there is a choice.
    """

    prompts: int
    steps: int | None
    guided: bool = True


def decibel(error: float) -> float:
    """The PSNR that an error is."""
    return inf if error <= 0 else -10 * log10(error)


class Drawings:
    """What the float parent draws from ``prompts``, to be compared with; its graphs are lent to trials.

    ``typical``: the error of latents is the geometric mean of the pictures', not their mean, which one
    picture that turned into another decides over. It ranks layers alike from other prompts, but the sum of
    such errors is smaller than the error of the whole.
    """

    def __init__(
        self,
        trials: Trials,
        prompts: Sequence[str],
        walk: Walk,
        threads: int | None = None,
        *,
        typical: bool = False,
    ) -> None:
        self._trials = trials
        self._distance = _typical if typical else _share
        self._options = {"threads": threads, "scan": False}
        size = trials.bundle.defaults.size
        picture = scenes.dead_leaves(size, 0)
        chosen = list(prompts[: walk.prompts])
        self._requests = [
            _asked(trials.bundle, chosen[at : at + _BATCH], at, walk, picture)
            for at in range(0, len(chosen), _BATCH)
        ]
        self._float = _Lending(trials.bundle, {}, self._options)
        self._fed: dict[str, list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]] = {}
        self._latents = self._drawn(self._float)
        self._look(picture)

    def error(self, choices: Mapping[str, Mapping[str, Choice]]) -> float:
        """Of what is drawn, or of what a picture's network gives, with one or several roles quantized."""
        return self._compared(choices, (self._distance,))[0]

    def worse(self, choices: Mapping[str, Mapping[str, Choice]]) -> float:
        """Of what is drawn the larger of two errors: the mean and the geometric mean of the pictures'."""
        return max(self._compared(choices, (_share, _typical)))

    def _compared(
        self, choices: Mapping[str, Mapping[str, Choice]], distances: Sequence[Distance]
    ) -> list[float]:
        lent = self._lent(choices)
        with self._trials.bundle_of(choices) as bundle:
            parts = _Lending(bundle, lent, self._options)
            try:
                if set(choices) <= set(PICTURES):
                    return [max(self._given(parts, role) for role in choices)] * len(distances)
                drawn = self._drawn(parts)
                return [distance(self._latents, drawn) for distance in distances]
            except NumericError:
                return [_WORST] * len(distances)
            finally:
                parts.close()

    def close(self) -> None:
        """Give the parent's graphs back."""
        self._float.close()

    def _drawn(self, parts: Watched) -> list[Array]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a prompt is said once, by the receipt
            return list(draw(parts, self._requests, decoded=False))

    def _lent(self, choices: Mapping[str, Mapping[str, Choice]]) -> dict[str, Graph]:
        """The parent's graphs that a trial needs beside its own; others are closed, to hold one of each."""
        if set(choices) <= set(PICTURES):
            self._float.only(())
            return {}
        request = self._requests[0].call
        roles = {*self._trials.bundle.prompt_roles, *request.denoisers} - choices.keys()
        self._float.only(tuple(roles))
        return {role: self._float.graph(role) for role in roles}

    def _look(self, picture: Array) -> None:
        """Note what decoder and encoder read and give, on pictures of at most ``_SIDE`` pixels."""
        factors = self._trials.bundle.latents.downscale
        sides = [max(1, _SIDE // factors[axis]) for axis in ("height", "width")]
        self._float.seen = self._note
        latents = np.concatenate(self._latents)[:_SHOWN]
        self._float.only(("decoder",))
        made = self._decoded(_middle(latents, sides))
        if "tiny_decoder" in self._trials.bundle.components:
            decode(self._float, [_middle(latents, sides)], "tiny")
        if "encoder" in self._trials.bundle.components:
            shown = [*made, scenes.signed(picture)]
            encode(self._float, [_middle(np.clip(each, -1, 1), [_SIDE, _SIDE]) for each in shown])
        self._float.seen = _unseen

    def _decoded(self, latents: Array) -> list[Array]:
        plan = tasks.plan(self._float, self._requests[0])
        self._fed.clear()
        made: Array = plan.decode(latents)
        return [each[None] for each in made]

    def _note(self, role: str, inputs: Mapping[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if role in PICTURES:
            fed = {name: np.array(value) for name, value in inputs.items()}
            self._fed.setdefault(role, []).append((fed, dict(outputs)))
        return outputs

    def _given(self, parts: Watched, role: str) -> float:
        wanted, found = [], []
        for inputs, outputs in self._fed[role]:
            made = parts.run(role, inputs)
            for name, value in outputs.items():
                wanted.append(value)
                found.append(made[name])
        return _share(wanted, found)


class _Lending(Watched):
    """Parts that take some graphs from elsewhere, and close none of those."""

    def __init__(self, bundle: Bundle, lent: Mapping[str, Graph], options: Mapping[str, Any]) -> None:
        super().__init__(bundle, "cpu", options=options, verify=False)
        self.seen = _unseen
        self._lent = lent

    def graph(self, role: str) -> Graph:
        return self._lent[role] if role in self._lent else super().graph(role)


def _unseen(role: str, inputs: Mapping[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return outputs


def _asked(bundle: Bundle, prompts: Sequence[str], seed: int, walk: Walk, picture: Array) -> tasks.Request:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few steps may be none of the model's own settings
        seeds = range(seed, seed + len(prompts))
        made = asked(bundle, prompts, seeds, walk.steps, picture)
        if walk.guided or not made.call.guided:
            return made
        plain = replace(bundle, defaults=replace(bundle.defaults, guidance_scale=1.0))
        return asked(plain, prompts, seeds, walk.steps, picture)


def _middle(value: Array, sides: Sequence[int]) -> Array:
    """The middle of pictures (B, C, H, W), at most ``sides`` large."""
    height, width = value.shape[2:]
    top, left = max(0, (height - sides[0]) // 2), max(0, (width - sides[1]) // 2)
    return np.ascontiguousarray(value[:, :, top : top + sides[0], left : left + sides[1]])


def _share(wanted: Sequence[Array], found: Sequence[Array]) -> float:
    count = sum(each.size for each in wanted)
    spread = max(float(each.max()) for each in wanted) - min(float(each.min()) for each in wanted)
    noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(wanted, found, strict=True))
    error = noise / (count * max(spread, 1e-30) ** 2)
    return min(error, _WORST) if isfinite(error) else _WORST


def _typical(wanted: Sequence[Array], found: Sequence[Array]) -> float:
    """The geometric mean of the pictures' errors."""
    spread = max(float(each.max()) for each in wanted) - min(float(each.min()) for each in wanted)
    logs = []
    for one, other in zip(wanted, found, strict=True):
        noise = np.square(one.astype(np.float64) - other).reshape(len(one), -1).mean(axis=1)
        errors = np.nan_to_num(noise / max(spread, 1e-30) ** 2, nan=_WORST, posinf=_WORST)
        logs += np.log(np.clip(errors, _LEAST, _WORST)).tolist()
    return float(np.exp(np.mean(logs)))


def cost(trials: Trials, prompt: str, walk: Walk) -> float:
    """Floating-point operations of drawing one prompt's latents so."""
    work, picture = work_of(trials.model), scenes.dead_leaves(trials.bundle.defaults.size, 0)
    request = _asked(trials.bundle, [prompt], 0, walk, picture)
    call = request.call
    rows = 1 if not call.guided else 3 if hasattr(request, "image_guidance_scale") else 2
    texts = sum(work.get(role, 0.0) for role in trials.bundle.text_roles)
    return rows * (passes(request) * sum(work.get(role, 0.0) for role in call.denoisers) + texts)


def shortest(trials: Trials, prompt: str) -> Walk:
    """One prompt in the fewest steps, two or more, that the model is made for; its own if those are fixed."""
    defaults = trials.bundle.defaults
    if defaults.timesteps is None:
        for steps in range(min(_FEW, defaults.num_inference_steps), defaults.num_inference_steps):
            with contextlib.suppress(InputError):
                walk = Walk(1, steps, guided=False)
                cost(trials, prompt, walk)
                return walk
    return Walk(1, None, guided=False)
