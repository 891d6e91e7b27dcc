"""Score what the checkpoints draw: ``python -m benchmarks.reference.evaluate`` writes results.json and the
card.

The ceiling is the judge's score of the autoencoder's round trips of clean renderings; then the teacher at
20 steps with guidance, and the student at 1, 2, 4 and 8 steps, each on captions and on (colour, shape) pairs
that training never saw.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.reference import autoencoder, checkpoint, loop, nets
from benchmarks.reference.dataset import hidden
from benchmarks.reference.grammar import scenes
from benchmarks.reference.pictures import to_pixels
from benchmarks.reference.score import Draw, Pictures, score_draw

RESULTS = checkpoint.HERE / "results.json"
SPLITS = ("heldout-captions", "heldout-pairs")


def noise(seed: int, n: int, size: int) -> Tensor:
    """The latents that a seed starts from."""
    return torch.randn((n, nets.LATENT_CHANNELS, size, size), generator=torch.Generator().manual_seed(seed))


def decoded(model: checkpoint.Model, latents: Tensor) -> Pictures:
    """Latents to pictures."""
    return to_pixels(model.vae.decode(latents / model.vae.config.scaling_factor).sample)


def teacher(model: checkpoint.Model, steps: int, guidance: float) -> Draw:
    """A drawer that follows the checkpoint's DDIM schedule under classifier-free guidance."""

    @torch.no_grad()
    def draw(captions: list[str], seed: int) -> Pictures:
        n = len(captions)
        states = hidden(model.text, model.tokenizer, [""] * n + captions)
        x = noise(seed, n, model.unet.config.sample_size)
        model.scheduler.set_timesteps(steps)
        for t in model.scheduler.timesteps:
            free, told = model.unet(torch.cat([x, x]), t, states).sample.chunk(2)
            x = model.scheduler.step(free + guidance * (told - free), t, x).prev_sample
        return decoded(model, x)

    return draw


def student(model: checkpoint.Model, steps: int, guidance: float) -> Draw:
    """A drawer in a few steps, one network call each; guidance is an input."""

    @torch.no_grad()
    def draw(captions: list[str], seed: int) -> Pictures:
        n = len(captions)
        states = hidden(model.text, model.tokenizer, captions)
        embedding = nets.guidance_embedding(torch.full((n,), guidance))
        x = noise(seed, n, model.unet.config.sample_size)
        steps_noise = torch.Generator().manual_seed(seed + 2**20)
        model.scheduler.set_timesteps(steps)
        for t in model.scheduler.timesteps:
            v = model.unet(x, t, states, timestep_cond=embedding).sample
            x = model.scheduler.step(v, t, x, generator=steps_noise).prev_sample
        return decoded(model, x)

    return draw


def main() -> None:
    """Score everything there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--captions", type=int, default=500, help="captions of each split")
    parser.add_argument("--guidance", type=float, default=3.0, help="the teacher's guidance")
    parser.add_argument("--student-guidance", type=float, default=3.0, help="what the student is told")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    held = {split: scenes(2026, options.captions, split) for split in SPLITS}
    results: dict[str, Any] = {"machine": loop.machine(), "captions": options.captions}
    model = checkpoint.load_teacher()
    back, size = autoencoder.reconstruction(model.vae), model.vae.config.sample_size
    results["ceiling"] = {split: autoencoder.round_trip(back, held[split], size) for split in SPLITS}
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
