"""The noise schedule: its configuration, and its equations as training needs them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor

STEPS = 1000
CONFIG: dict[str, Any] = {
    "num_train_timesteps": STEPS,
    "beta_schedule": "squaredcos_cap_v2",
    "rescale_betas_zero_snr": True,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def ddim() -> DDIMScheduler:
    """The teacher's scheduler."""
    return DDIMScheduler(**CONFIG)


def lcm() -> LCMScheduler:
    """The student's scheduler."""
    return LCMScheduler(**CONFIG)


def levels(steps: int) -> Tensor:
    """The times that a student of so many steps visits, least noise first."""
    scheduler = lcm()
    scheduler.set_timesteps(steps)
    return scheduler.timesteps.flip(0).clone()


@functools.cache
def _table(device: torch.device) -> Tensor:
    return ddim().alphas_cumprod.to(device)


def signal(t: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of picture and noise at times (N,), each of shape (N, 1, 1, 1); their squares sum to 1."""
    squared = _table(t.device)[t][:, None, None, None]
    return squared.sqrt(), (1 - squared).sqrt()


def noised(clean: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The noised latents, and the velocity to be predicted from them (Salimans and Ho, 2022)."""
    a, s = signal(t)
    return a * clean + s * noise, a * noise - s * clean


def split(x: Tensor, velocity: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Noised latents and their velocity, taken apart into clean latents and noise."""
    a, s = signal(t)
    return a * x - s * velocity, s * x + a * velocity


def weight(t: Tensor) -> Tensor:
    """Min-SNR weights, gamma 5, for velocities (Hang et al., 2023), plus 0.05: pure noise counts too."""
    squared = _table(t.device)[t]
    # min(snr, 5) / (snr + 1) with snr = squared / (1 - squared)
    return torch.minimum(squared, 5 * (1 - squared)) + 0.05


def times(n: int, draw: torch.Generator) -> Tensor:
    """Random times, one from each of ``n`` equal strata, shuffled."""
    places = (torch.randperm(n, generator=draw) + torch.rand(n, generator=draw)) / n
    return (places * STEPS).long().clamp(max=STEPS - 1)
