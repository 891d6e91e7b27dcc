"""How much is drawn to calibrate: by floating-point operations, which are the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from edgediff import tasks
from edgediff.bundle import Bundle
from edgediff.errors import InputError
from edgediff.export.emit.flops import flops
from edgediff.export.families.parts import Model
from edgediff.export.quantize.extents import default_extents
from edgediff.export.quantize.trajectory import passes

BUDGET = 27e12
"""Floating-point operations; about two minutes and a half on two cores of a server of 2023."""
PROMPTS = 48
_SEVERAL = 4  # prompts that are worth shorter walks
_FEWEST = 4  # steps of a walk that is cut short
_AT_ONCE, _BATCH = 2e10, 16  # what a pass may take, and the most pictures in it


@dataclass(frozen=True, slots=True)
class Course:
    """How many prompts are drawn, ``batch`` at once, in how many steps (None: the bundle's own).

    ``work`` is in floating-point operations; ``note`` says what was cut, if anything.
    """

    prompts: int
    steps: int | None
    batch: int
    work: float
    note: str | None = None


def course(
    bundle: Bundle,
    model: Model,
    roles: Collection[str],
    ask: Callable[[int | None], tasks.Request],
    prompts: int,
    least: int = 1,
    budget: float = BUDGET,
) -> Course:
    """Choose prompts and steps for calibrating ``roles`` within ``budget``.

    ``ask`` gives a request of one prompt in so many steps. At most ``prompts`` are there, ``least`` are drawn
    in any case. All prompts in the bundle's own steps come first; then fewer prompts; then, from few prompts
    on, fewer steps of the same sampler: of equal work, two prompts in 4 steps gave 0.3 dB more than one in 9
    (the reference model's U-Net of 20 steps, activations alone in 8 bits).
    """
    work = work_of(model)
    batch = max(1, min(_BATCH, int(_AT_ONCE / max(work[role] for role in work))))

    def cost(steps: int | None) -> float:
        return _cost(ask(steps), work, roles)

    own = cost(None)
    fitting = min(prompts, int(budget / own))
    if fitting >= min(prompts, _SEVERAL) or bundle.defaults.timesteps is not None:
        count = max(least, fitting)
        return Course(count, None, batch, count * own)
    default = bundle.defaults.num_inference_steps
    for count in range(max(least, min(prompts, _SEVERAL)), 0, -1):
        for steps in range(default - 1, min(_FEWEST, default) - 1, -1):
            try:
                taken = count * cost(steps)
            except InputError:  # the model is not made for so few
                break
            if taken <= budget or (count <= least and steps == _FEWEST):
                note = f"{steps} steps instead of {default}, so that it ends in a few minutes"
                return Course(count, steps, batch, taken, note)
    return Course(least, None, batch, least * own)


def _cost(request: tasks.Request, work: Mapping[str, float], roles: Collection[str]) -> float:
    call = request.call
    rows = 1 if not call.guided else 3 if hasattr(request, "image_guidance_scale") else 2
    total = passes(request) * rows * sum(work.get(role, 0.0) for role in call.denoisers)
    total += rows * sum(each for role, each in work.items() if role.startswith("text_encoder"))
    if "decoder" in roles or "encoder" in roles:
        total += work["decoder"]
    total += work["tiny_decoder"] if "tiny_decoder" in roles else 0.0
    return total + (work["encoder"] if "encoder" in roles else 0.0)


def work_of(model: Model) -> dict[str, float]:
    """Floating-point operations of a pass over one row, by role, at the model's own size."""
    return {
        part.role: float(flops(part.graph, default_extents(model, part))["total"]) for part in model.parts
    }
