"""The student: consistency distillation on the times that 8, 4, 2 and 1 steps visit.

From each time the teacher takes one guided step down to the next; at both ends the student must say the same
clean latents (Luo et al., 2023, "Latent consistency models", with eight times instead of a fine grid). The
student is told the guidance, so one network call does for two.
"""

from __future__ import annotations

import copy

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from benchmarks.reference import autoencoder, checkpoint, dataset, denoiser, loop, nets, optimise, schedule

BATCH = 64
STEPS = 8
LOWEST = 59  # a time below those eight, from which the teacher alone says what is clean
GUIDANCE = 3.0  # of half of the samples; the others have 1.5 to 5
HUBER = 0.05


def train(setting: loop.Setting, budget: loop.Budget) -> None:
    """Distil the denoiser; the averaged student is kept in the work folder."""
    reader = denoiser.load(setting)
    if reader is None:
        raise SystemExit(f"{setting.work}: no denoiser yet. Run the stage denoiser first.")
    n, device = setting.batch or BATCH, setting.device
    reader.text.eval().requires_grad_(False).to(device)
    data = dataset.load(setting, autoencoder.encoder(setting).to(device), reader.text, reader.words)
    teacher = Teacher(reader.unet.eval().requires_grad_(False), data.empty)
    teacher.unet.to(device, memory_format=torch.channels_last)
    student = _first(setting, teacher.unet).requires_grad_(True)
    target = copy.deepcopy(student).requires_grad_(False)
    optimizer, average = optimise.adam(student), optimise.Average(student, 0.995)
    times = schedule.levels(STEPS).to(device)

    def step(i: int, share: float) -> dict[str, Tensor]:
        random = optimise.generator(4, i)
        clean, states = data.draw(n, random)
        level = (torch.randperm(n, generator=random) % STEPS).to(device)
        told, t = guidances(n, random).to(device), times[level]
        x, _ = schedule.noised(clean, torch.randn(clean.shape, generator=random).to(device), t)
        with torch.no_grad():
            lowest = torch.full_like(t, LOWEST)
            below = torch.where(level > 0, times[(level - 1).clamp(min=0)], lowest)
            there = teacher.step(x, t, below, states, told)
            goal = said(target, there, below, states, told)
            end = level == 0
            if end.any():
                goal[end] = teacher.split(there[end], lowest[end], states[end], told[end])[0]
        error = said(student, x, t, states, told) - goal
        loss = ((error.square() + HUBER**2).sqrt() - HUBER).mean()
        optimise.descend(loss, (optimizer, 1e-3 * optimise.linear(i, share, 50, 0.5)))
        average.update()
        torch._foreach_lerp_(list(target.parameters()), [p.detach() for p in student.parameters()], 0.05)
        squares = error.detach().square().mean((1, 2, 3))
        return {f"mse {at}": squares[level == k].mean() for k, at in enumerate(times.tolist())}

    parts = {"student": student, "target": target, "optimizer": optimizer, "average": average}
    loop.run(setting.work / "distill.pt", parts, budget, step, n, setting.save_every)


class Teacher:
    """The denoiser under classifier-free guidance."""

    def __init__(self, unet: UNet2DConditionModel, empty: Tensor) -> None:
        self.unet, self.empty = unet, empty

    def split(self, x: Tensor, t: Tensor, states: Tensor, guidance: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents and noise, as guidance has them."""
        both = torch.cat([self.empty.expand_as(states), states])
        free, told = self.unet(torch.cat([x, x]), torch.cat([t, t]), both).sample.chunk(2)
        return schedule.split(x, free + guidance[:, None, None, None] * (told - free), t)

    def step(self, x: Tensor, t: Tensor, below: Tensor, states: Tensor, guidance: Tensor) -> Tensor:
        """One step of DDIM (Song et al., 2021, eq. 12, without noise)."""
        clean, noise = self.split(x, t, states, guidance)
        return schedule.noised(clean, noise, below)[0]


def said(net: UNet2DConditionModel, x: Tensor, t: Tensor, states: Tensor, guidance: Tensor) -> Tensor:
    """What a student takes for the clean latents. Its boundary scalings are 0 and 1 at all of these times."""
    velocity = net(x, t, states, timestep_cond=nets.guidance_embedding(guidance)).sample
    return schedule.split(x, velocity, t)[0]


def guidances(n: int, random: torch.Generator) -> Tensor:
    """What the samples are told."""
    usual = torch.rand(n, generator=random) < 0.5
    return torch.where(usual, GUIDANCE, 1.5 + 3.5 * torch.rand(n, generator=random))


def _first(setting: loop.Setting, teacher: UNet2DConditionModel) -> UNet2DConditionModel:
    """The student before it learns: the teacher deaf to guidance, or the checkpoint's student."""
    if setting.start and (setting.start / "student").exists():
        unet = checkpoint.load_student(setting.start / "student", setting.start / "checkpoint").unet
        return unet.to(setting.device, memory_format=torch.channels_last)
    unet = copy.deepcopy(teacher)
    unet.time_embedding.cond_proj.weight.data.zero_()
    return unet


def load(setting: loop.Setting) -> UNet2DConditionModel | None:
    """The averaged student of the work folder, if there is one."""
    path = setting.work / "distill.pt"
    if not path.exists():
        return None
    unet = nets.denoiser(setting.size)
    unet.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["average"]["kept"])
    return unet
