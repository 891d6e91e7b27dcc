"""What ``edgediff run`` does with a second model, which finishes what the first one began."""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from edgediff import refining
from edgediff.bundle import Bundle
from edgediff.pipeline import Pipeline
from edgediff.sampler import Array


def walked(pipe: Pipeline, asked: Any, progress: bool) -> Array:
    """Walk a checked request to its end and return the last latents; ``progress`` is shown on stderr."""
    x = None
    for step in pipe.walk(asked):
        x = step.x
        if progress:
            click.echo(f"\rstep {step.i + 1} of {len(asked.call.schedule.hops)}", nl=False, err=True)
    if progress:
        click.echo("\r\033[K", nl=False, err=True)
    assert x is not None  # a schedule has at least one hop
    return x


def decoded(pipe: Pipeline, asked: Any, latents: Array, progress: bool) -> Any:
    """Decode as a checked request says; tiles are counted on stderr where ``progress`` is shown."""

    def told(done: int, total: int) -> None:
        if total > 1:
            click.echo(f"\rtile {done} of {total}" if done < total else "\r\033[K", nl=False, err=True)

    savings = asked.call.savings
    pictures = pipe.decode(
        latents, "np", decoder=savings.decoder, tile_decode=savings.tile, progress=told if progress else None
    )
    pipe.check_memory()
    return pictures


class Finished(NamedTuple):
    """Decoded pictures, what to say of them in their files, and what ran, model by model."""

    pictures: Any
    parameters: dict[str, Any]
    ran: dict[str, Any]

    def note(self, record: dict[str, Any]) -> None:
        """Put that into a call's record."""
        record.update(self.ran)
        record["parameters"].update(self.parameters)


class Refiner:
    """The second model and its share of the work."""

    def __init__(self, pipe: Pipeline, start: float | None) -> None:
        self._pipe = pipe
        self._start = refining.START if start is None else start

    def checked(self, base: Bundle, prompts: list[str], arguments: dict[str, Any]) -> refining.HandOver:
        """Check a call of both models."""
        return refining.checked(base, self._pipe.bundle, prompts, self._start, **arguments)

    def finish(self, over: refining.HandOver, base: Pipeline, latents: Array, progress: bool) -> Finished:
        """Go on from what ``base`` came to, and decode. The memory of ``base`` is given back first."""
        first = _ran(base)
        base.close()
        x = walked(self._pipe, over.second(latents), progress)
        pictures = decoded(self._pipe, over.rest, x, progress)
        told = {"refiner": self._pipe.bundle.origin.get("source"), "refiner_start": self._start}
        own = {"steps": len(over.rest.call.schedule.hops), **_ran(self._pipe)}
        return Finished(pictures, told, {**first, "refiner": own})


def _ran(pipe: Pipeline) -> dict[str, Any]:
    return {
        "providers": {role: info.provider for role, info in pipe.infos().items()},
        "timings": {name: round(value, 4) for name, value in pipe.timings.items()},
    }
