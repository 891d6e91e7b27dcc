"""The wide denoiser before it learns: the embedded model's denoiser inside, a linear way to it fitted.

The two inner levels, the middle and the time embedding are the teacher's. The outer levels start as
identities, so that what reaches the inner ones is linear in the latents; that map is fitted to what the
teacher's first convolution makes of its own latents, with white noise on both sides.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from benchmarks.reference import nets, optimise, schedule, wide_nets
from benchmarks.reference.checkpoint import Model
from benchmarks.reference.grammar import scenes
from benchmarks.reference.install import encoder_of
from benchmarks.reference.pictures import to_tensor
from benchmarks.reference.pyramid import Pyramid
from benchmarks.reference.render import render

STEPS, BATCH, RIDGE = 200, 32, 1e-3
INSIDE = {"down_blocks.0": "down_blocks.2", "down_blocks.1": "down_blocks.3"}
"""The teacher's down blocks, and where they lie in the wide denoiser; its up blocks keep their places."""


def start(teacher: Model) -> UNet2DConditionModel:
    """A wide denoiser that thinks as the teacher does and has yet to learn to draw finely."""
    torch.manual_seed(5)
    unet = wide_nets.denoiser()
    inside(teacher.unet, unet)
    times(teacher.unet, unet)
    first, second = unet.down_blocks[0], unet.down_blocks[1]
    for block in (first, second):
        for resnet in block.resnets:
            nn.init.zeros_(resnet.conv2.weight)
            nn.init.zeros_(resnet.conv2.bias)
    for layer in first.attentions:
        nn.init.zeros_(layer.proj_out.weight)
        nn.init.zeros_(layer.proj_out.bias)
    way(teacher, unet)
    return unet


@torch.no_grad()
def inside(teacher: UNet2DConditionModel, unet: UNet2DConditionModel) -> None:
    """Copy every weight of the inner levels whose shape fits."""
    held = unet.state_dict()
    for name, value in teacher.state_dict().items():
        if not name.startswith(("down_blocks", "mid_block", "up_blocks")):
            continue
        for old, new in INSIDE.items():
            if name.startswith(old):
                name = new + name[len(old) :]
                break
        if name in held and held[name].shape == value.shape:
            held[name].copy_(value)


@torch.no_grad()
def times(teacher: UNet2DConditionModel, unet: UNet2DConditionModel) -> None:
    """The time embedding: the second layer is copied, the first fitted to fewer waves at every time."""
    t = torch.arange(schedule.STEPS)
    waves, fewer = teacher.time_proj(t).double(), unet.time_proj(t).double()
    taught, learns = teacher.time_embedding, unet.time_embedding
    wanted = waves @ taught.linear_1.weight.double().T + taught.linear_1.bias.double()
    given = torch.cat([fewer, torch.ones(len(t), 1, dtype=torch.float64)], 1)
    gram = given.T @ given + 1e-6 * len(t) * torch.eye(given.shape[1])
    found = torch.linalg.solve(gram, given.T @ wanted)
    learns.linear_1.weight.copy_(found[:-1].T)
    learns.linear_1.bias.copy_(found[-1])
    learns.linear_2.load_state_dict(taught.linear_2.state_dict())


def way(teacher: Model, unet: UNet2DConditionModel) -> None:
    """Fit the convolutions that lead from the latents to the inner levels; prints how well they do."""
    encoder = encoder_of(teacher.vae)
    unmixed = projection(encoder)
    first, second = unet.down_blocks[0], unet.down_blocks[1]
    widening = second.resnets[0].conv_shortcut
    convolutions = nn.ModuleList([unet.conv_in, first.downsamplers[0], widening, second.downsamplers[0]])
    for layer in convolutions.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
    optimizer = optimise.adam(convolutions, beta=0.98)
    for i in range(STEPS):
        random = optimise.generator(5, i)
        pictures = to_tensor(render(scenes(70_000_000 + i, BATCH)))
        with torch.no_grad():
            latents, known = wide_nets.latents(pictures), encoder.encode(pictures)
            noise = torch.randn(latents.shape, generator=random)
            t = schedule.times(BATCH, random)
            x = schedule.noised(latents, noise, t)[0]
            wanted = teacher.unet.conv_in(schedule.noised(known, blocks(noise, unmixed), t)[0])
        found = x
        for layer in convolutions:
            found = layer(found)
        loss = (found - wanted).square().mean() / wanted.var()
        optimise.descend(loss, (optimizer, 3e-3 * optimise.linear(i, i / STEPS, 20, 0.7)))
    print(f"way in: {100 * (1 - loss.item()):.0f} % of the variance", flush=True)


@torch.no_grad()
def projection(encoder: Pyramid) -> Tensor:
    """Rows (16, 48), orthonormal: the white noise that a 4x4 block's noise means to the teacher's latents."""
    pictures = to_tensor(render(scenes(69_999_999, 256)))
    known = encoder.encode(pictures).permute(0, 2, 3, 1).reshape(-1, nets.LATENT_CHANNELS)
    given = spread(wide_nets.latents(pictures)).permute(0, 2, 3, 1).reshape(len(known), -1).double()
    given, known = given - given.mean(0), known.double() - known.double().mean(0)
    gram = given.T @ given + RIDGE * len(given) * torch.eye(given.shape[1])
    found = torch.linalg.solve(gram, given.T @ known).T
    left, _, right = torch.linalg.svd(found, full_matrices=False)
    return (left @ right).float()


def blocks(x: Tensor, rows: Tensor) -> Tensor:
    """A linear map of every 4x4 block: (N, 3, 32, 32) to (N, 16, 8, 8)."""
    return torch.einsum("ij,njhw->nihw", rows, spread(x))


def spread(x: Tensor) -> Tensor:
    """Blocks of 4x4 as channels: (N, 3, 32, 32) to (N, 48, 8, 8)."""
    return nn.functional.pixel_unshuffle(x, 4)
