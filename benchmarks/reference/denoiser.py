"""The text encoder and the denoiser, in three phases.

First the text encoder learns to parse captions. Then both learn to denoise together, the text encoder at
every third step and still parsing a little. Then the averaged text encoder is fixed, latents and states are
made once, and the denoiser alone goes on, at twice the speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from benchmarks.reference import autoencoder, checkpoint, dataset, loop, nets, optimise, schedule, tokenizer
from benchmarks.reference.grammar import scenes
from benchmarks.reference.parsing import Parser, target
from benchmarks.reference.pictures import to_tensor
from benchmarks.reference.pyramid import Pyramid
from benchmarks.reference.render import render

BATCH = 64
TEXT_EVERY = 3
PARSING_WEIGHT = 0.01
PARSING, JOINT = 0.05, 0.3  # shares of the budget; the cached phase has the rest


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads a caption and draws what it says, in latents."""

    words: Any
    text: CLIPTextModel
    unet: UNet2DConditionModel


def train(setting: loop.Setting, budget: loop.Budget) -> None:
    """Go through the phases, or the last alone where there is a checkpoint or a state to go on from."""
    encoder = autoencoder.encoder(setting).to(setting.device)
    reader = load(setting)
    first, second = budget.part(PARSING), budget.part(JOINT)
    if reader is None:
        reader = fresh(setting)
        parse(setting, first, reader)
        joint(setting, second, reader, encoder)
    if not setting.start:
        budget = budget.without(first).without(second)
    reader.text.eval().requires_grad_(False).to(setting.device)
    data = dataset.load(setting, encoder, reader.text, reader.words)
    cached(setting, budget, reader, data)


def parse(setting: loop.Setting, budget: loop.Budget, reader: Reader) -> None:
    """Train the text encoder by what its captions state."""
    n, device = setting.batch or BATCH, setting.device
    text, parser = reader.text.to(device), Parser(nets.WIDTH).to(device)
    optimizer = optimise.adam(text, parser, beta=0.98)

    def step(i: int, share: float) -> dict[str, Tensor]:
        asked = scenes(1_000_000 + i, n)
        states = dataset.hidden(text, reader.words, [scene.caption for scene in asked])
        loss, right = parser(states, torch.tensor([target(scene) for scene in asked]).to(device))
        optimise.descend(loss, (optimizer, 2e-3 * optimise.cosine(i, share, 100)))
        return {"loss": loss.detach(), "parsed": right}

    parts = {"text": text, "parser": parser, "optimizer": optimizer}
    loop.run(setting.work / "parsing.pt", parts, budget, step, n, setting.save_every)


def joint(setting: loop.Setting, budget: loop.Budget, reader: Reader, encoder: Pyramid) -> None:
    """Train both on new pictures; the averaged weights stay in ``reader``."""
    n, device = setting.batch or BATCH, setting.device
    text, unet, parser = reader.text.to(device), _placed(reader.unet, device), Parser(nets.WIDTH).to(device)
    parser.load_state_dict(torch.load(setting.work / "parsing.pt", weights_only=True)["parser"])
    writing, drawing = optimise.adam(text, parser, beta=0.98), optimise.adam(unet)
    averages = [optimise.Average(text, 0.9995), optimise.Average(unet, 0.9995)]

    def step(i: int, share: float) -> dict[str, Tensor]:
        random, rate = optimise.generator(2, i), optimise.linear(i, share, 100, 0.4)
        asked = scenes(5_000_000 + i, n)
        clean = encoder.encode(to_tensor(render(asked, setting.size)).to(device))
        dropped = torch.rand(n, generator=random) < dataset.DROPPED
        captions = ["" if gone else scene.caption for gone, scene in zip(dropped, asked, strict=True)]
        reading = i % TEXT_EVERY == 0
        with torch.set_grad_enabled(reading):
            states = dataset.hidden(text, reader.words, captions)
        loss, error = denoising(unet, clean, states, random)
        rates = [(drawing, 1.5e-3 * rate)]
        if reading:
            targets = torch.tensor([target(scene) for scene in asked])[~dropped]
            if len(targets):
                loss = loss + PARSING_WEIGHT * parser(states[~dropped.to(device)], targets.to(device))[0]
            rates.append((writing, 3e-4 * rate))
        optimise.descend(loss, *rates)
        for average in averages:
            average.update()
        return {"mse": error}

    parts = {"text": text, "unet": unet, "parser": parser, "writing": writing, "drawing": drawing}
    parts |= {"text_average": averages[0], "average": averages[1]}
    loop.run(setting.work / "joint.pt", parts, budget, step, n, setting.save_every)
    for average in averages:
        average.put()


def cached(setting: loop.Setting, budget: loop.Budget, reader: Reader, data: dataset.Cached) -> None:
    """Train the denoiser on the data set; the averaged weights stay in ``reader``."""
    n, unet = setting.batch or BATCH, _placed(reader.unet, setting.device)
    optimizer, average = optimise.adam(unet), optimise.Average(unet, 0.9995)

    def step(i: int, share: float) -> dict[str, Tensor]:
        random = optimise.generator(3, i)
        clean, states = data.draw(n, random)
        loss, error = denoising(unet, clean, data.without_some(states, random), random)
        optimise.descend(loss, (optimizer, 1.5e-3 * optimise.linear(i, share, 150, 0.6)))
        average.update()
        return {"mse": error}

    parts = {"text": reader.text, "unet": unet, "optimizer": optimizer, "average": average}
    loop.run(setting.work / "denoiser.pt", parts, budget, step, n, setting.save_every)
    average.put()


def denoising(
    unet: UNet2DConditionModel, clean: Tensor, states: Tensor, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The weighted squared error of predicted velocities, and the plain one."""
    t = schedule.times(len(clean), random).to(clean.device)
    noise = torch.randn(clean.shape, generator=random).to(clean.device)
    x, velocity = schedule.noised(clean, noise, t)
    found = unet(x.contiguous(memory_format=torch.channels_last), t, states).sample
    error = (found - velocity).square().mean((1, 2, 3))
    return (schedule.weight(t) * error).mean(), error.detach().mean()


def fresh(setting: loop.Setting) -> Reader:
    """Untrained networks, and the tokeniser of where the run starts from, or else of the work folder."""
    torch.manual_seed(1)
    folder = setting.start / "checkpoint" / "tokenizer" if setting.start else setting.work
    words = tokenizer.kept(folder / "tokenizer.json")
    start, end = words.token_to_id(tokenizer.START), words.token_to_id(tokenizer.END)
    text = nets.text_encoder(words.get_vocab_size(), start, end)
    return Reader(words, text, nets.denoiser(setting.size))


def load(setting: loop.Setting) -> Reader | None:
    """The text encoder and the averaged denoiser of the work folder, or else of where the run starts from."""
    path = setting.work / "denoiser.pt"
    if path.exists():
        reader = fresh(setting)
        held = torch.load(path, map_location="cpu", weights_only=True)
        reader.text.load_state_dict(held["text"])
        reader.unet.load_state_dict(held["average"]["kept"])
        return reader
    if setting.start:
        model = checkpoint.load_teacher(setting.start / "checkpoint")
        return Reader(model.tokenizer, model.text, checkpoint.with_guidance_input(model.unet))
    return None


def _placed(unet: UNet2DConditionModel, device: str) -> UNet2DConditionModel:
    return unet.to(device, memory_format=torch.channels_last)
