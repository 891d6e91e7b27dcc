"""Score what the checkpoints draw: ``python -m benchmarks.reference.evaluate`` writes results.json and the card.

The ceiling is the judge's score of the autoencoder's round trips of clean renderings; then the teacher at 20
steps with guidance, and the student at 1, 2, 4 and 8 steps, each on captions and on (colour, shape) pairs that
training never saw.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
    LatentConsistencyModelPipeline,
)
from torch import Tensor

from benchmarks.reference import autoencoder, checkpoint, loop, nets, tokenizer
from benchmarks.reference.grammar import Scene, scenes
from benchmarks.reference.render import render
from benchmarks.reference.score import Draw, Pictures, score_draw, score_pictures

RESULTS = checkpoint.HERE / "results.json"
SPLITS = ("heldout-captions", "heldout-pairs")


def noise(seed: int, n: int, size: int) -> Tensor:
    """The latents that a seed starts from."""
    return torch.randn((n, nets.LATENT_CHANNELS, size, size), generator=torch.Generator().manual_seed(seed))


def hidden(model: checkpoint.Model, captions: list[str]) -> Tensor:
    """The text encoder's last states, final norm included, as Stable Diffusion uses them."""
    rows = tokenizer.encode(model.tokenizer, captions, nets.CONTEXT)
    states: Tensor = model.text(torch.tensor(rows)).last_hidden_state
    return states


def decoded(model: checkpoint.Model, latents: Tensor) -> Pictures:
    """Latents to pictures."""
    return autoencoder.to_pixels(model.vae.decode(latents / model.vae.config.scaling_factor).sample)


def teacher(model: checkpoint.Model, steps: int, guidance: float) -> Draw:
    """A drawer that follows the checkpoint's DDIM schedule under classifier-free guidance."""

    @torch.no_grad()
    def draw(captions: list[str], seed: int) -> Pictures:
        n = len(captions)
        states = hidden(model, [""] * n + captions)
        x = noise(seed, n, model.unet.config.sample_size)
        model.scheduler.set_timesteps(steps)
        for t in model.scheduler.timesteps:
            free, told = model.unet(torch.cat([x, x]), t, states).sample.chunk(2)
            x = model.scheduler.step(free + guidance * (told - free), t, x).prev_sample
        return decoded(model, x)

    return draw


def student(model: checkpoint.Model, steps: int, guidance: float | None) -> Draw:
    """A drawer in a few steps, one network call each; guidance, if the student takes it, is an input."""

    @torch.no_grad()
    def draw(captions: list[str], seed: int) -> Pictures:
        n = len(captions)
        states, embedding = hidden(model, captions), None
        if guidance is not None:
            embedding = guidance_embedding(torch.full((n,), guidance - 1.0))
        x = noise(seed, n, model.unet.config.sample_size)
        steps_noise = torch.Generator().manual_seed(seed + 2**20)
        model.scheduler.set_timesteps(steps)
        stochastic = {"generator": steps_noise}
        for t in model.scheduler.timesteps:
            v = model.unet(x, t, states, timestep_cond=embedding).sample
            step = model.scheduler.step(v, t, x, **stochastic)
            x = step.prev_sample
        return decoded(model, x)

    return draw


def guidance_embedding(w: Tensor) -> Tensor:
    """diffusers' embedding of guidance minus one, so that its pipelines give what training gave."""
    return LatentConsistencyModelPipeline.get_guidance_scale_embedding(  # type: ignore[no-any-return]
        None, w, embedding_dim=nets.GUIDANCE_CHANNELS
    )


@torch.no_grad()
def round_trip(model: checkpoint.Model, asked: list[Scene], batch: int = 32) -> dict[str, Any]:
    """The ceiling: clean renderings through encoder and decoder."""
    clean = render(asked)
    back = []
    for start in range(0, len(clean), batch):
        x = autoencoder.to_tensor(clean[start : start + batch])
        back.append(autoencoder.to_pixels(model.vae.decode(model.vae.encode(x).latent_dist.mean).sample))
    pictures = np.concatenate(back)
    error = float(np.square((pictures.astype(np.float64) - clean) / 255).mean())
    return {"decibel": round(-10 * np.log10(error), 2), **score_pictures(asked, pictures)}


def main() -> None:
    """Score everything there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--captions", type=int, default=500, help="captions of each split")
    parser.add_argument("--guidance", type=float, default=3.0, help="the teacher's guidance")
    parser.add_argument(
        "--student-guidance", type=float, default=None, help="what the student is told, if anything"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    held = {split: scenes(2026, options.captions, split) for split in SPLITS}
    results: dict[str, Any] = {"machine": loop.machine(), "captions": options.captions}
    model = checkpoint.load_teacher()
    results["ceiling"] = {split: round_trip(model, held[split]) for split in SPLITS}
    drawers: dict[str, Draw] = {"teacher, 20 steps": teacher(model, 20, options.guidance)}
    results["guidance"] = {"teacher": options.guidance, "student": options.student_guidance}
    if checkpoint.STUDENT.exists():
        few = checkpoint.load_student()
        drawers |= {
            f"student, {n} step{'s' * (n > 1)}": student(few, n, options.student_guidance)
            for n in (1, 2, 4, 8)
        }
    for name, draw in drawers.items():
        results[name] = {split: score_draw(draw, held[split], batch=50) for split in SPLITS}
        print(name, {s: results[name][s]["scores"]["whole"]["share"] for s in SPLITS}, flush=True)
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    if options.out == RESULTS:
        from benchmarks.reference import card

        card.write()


if __name__ == "__main__":
    main()
