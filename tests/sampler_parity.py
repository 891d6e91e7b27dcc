"""What the samplers' parity tests share: a stand-in for the network, diffusers' loop and ours."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from edgediff import denoise as wrap
from edgediff import sampler as samplers
from edgediff import tables
from edgediff.noise import TorchNoise
from edgediff.schedule import Request

BASE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 4, 8, 8)
STEPS = (1, 2, 3, 4, 7, 10, 20, 30)


def network(x: Any, t: Any, xp: Any) -> Any:
    """Bounded, non-linear in x and smooth in t, as trained networks are."""
    return xp.tanh(1.3 * x) * (0.6 + 0.3 * xp.cos(t / 300.0)) - 0.2 * xp.sin(2.1 * x)


def reference(scheduler: Any, x: np.ndarray, steps: int, **options: Any) -> np.ndarray:
    """diffusers' own loop, as its pipelines write it."""
    import torch

    custom = {k: options.pop(k) for k in ("timesteps", "sigmas") if k in options}
    scheduler.set_timesteps(**custom) if custom else scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(7)
    sample = (
        torch.from_numpy(x) * scheduler.init_noise_sigma
        if hasattr(scheduler, "init_noise_sigma")
        else torch.from_numpy(x)
    )
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = generator
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        out = network(scaled, t.to(torch.float32), torch)
        sample = scheduler.step(out, t, sample, **options, return_dict=False)[0]
    return sample.numpy()


def ours(
    config: dict[str, Any], name: str | None, x: np.ndarray, request: Request, **options: Any
) -> np.ndarray:
    solver = samplers.find(config, name, **options)
    schedule = solver.schedule(request)

    walked = walk(solver, schedule, x, TorchNoise(7))
    assert walked.dtype == np.float32
    # The same function on symbols writes a table; in float64, both do the same to many digits.
    exact = [walk(solver, schedule, x.astype(np.float64), Wide(7), by_table) for by_table in (False, True)]
    assert worst(exact[1], exact[0]) < 1e-9, "the table differs from its sampler"
    return walked


class Wide(TorchNoise):
    """The same noise in float64."""

    def draw(self, shape: tuple[int, ...]) -> Any:
        return super().draw(shape).astype(np.float64)


def walk(solver: Any, schedule: Any, x: np.ndarray, noise: Any, by_table: bool = False) -> np.ndarray:
    """Our loop, by the sampler's function or by its table, in the precision of ``x``."""

    def raw(scaled: Any, at: Any) -> Any:
        return network(scaled, x.dtype.type(at.t), np).astype(x.dtype)

    x = schedule.start * x
    if by_table:
        steps = tables.run(tables.record(solver, schedule), raw, x, noise)
    else:
        steps = solver.sampler(wrap.denoiser(raw, solver.conversion), x, schedule, noise)
    done = list(steps)
    assert [step.i for step in done] == list(range(len(schedule.hops)))
    return np.asarray(done[-1].x)


def worst(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / (np.abs(b).max() or 1.0))


def compare(class_name: str, config: dict[str, Any], steps: int, **options: Any) -> float:
    import diffusers

    x = TorchNoise(3).draw(SHAPE)
    scheduler = getattr(diffusers, class_name)(**config)
    saved = {**scheduler.config, "_class_name": class_name}
    custom = {k: tuple(options[k]) for k in ("timesteps", "sigmas") if k in options}
    sampler_options = {k: v for k, v in options.items() if k not in custom}
    got = ours(saved, None, x, Request(steps, **custom), **sampler_options)
    return worst(got, reference(scheduler, x, steps, **options))
