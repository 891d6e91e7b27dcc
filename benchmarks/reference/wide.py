"""Train the wide model: ``python -m benchmarks.reference.wide``.

The same grammar, text encoder and schedule as the embedded model, with latents of 32x32 instead of 8x8, so
that its first and last levels attend over 1024 tokens: what reduced attention is judged by. The stages are
decoder (the autoencoder's second half; its first is exact) and denoiser; both go on from their last state in
the work folder. Both write the whole pipeline folder to --out once both have a state.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.reference import checkpoint, dataset, loop, optimise, schedule, wide_nets, wide_start
from benchmarks.reference.denoiser import denoising
from benchmarks.reference.grammar import scenes
from benchmarks.reference.pictures import to_tensor
from benchmarks.reference.render import render

OUT = Path(__file__).parent / "wide"
RATE, INNER_RATE = 1.5e-3, 5e-4
BATCH, SECONDS = 16, 4500.0
STATE = "wide-denoiser.pt"
DEFAULTS = {"num_inference_steps": 20, "guidance_scale": 3.0}
CARD = """---
license: apache-2.0
---
# shapes, wide

A latent diffusion model of 32x32x3 latents, trained from scratch on drawn pictures: the instrument by
which reduced attention is judged, since its finest level attends over 1024 tokens. Its text encoder is that
of the reference model beside it, its inner levels started as that model's. {samples} pictures were seen in
{steps} steps, {seconds} s. It is for comparisons alone; what it scores is measured by
`python -m benchmarks.attention_quality` and stands in `benchmarks/results/attention_quality.json`.
Made by `python -m benchmarks.reference.wide`.
"""
INNER = ("down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1", "time_embedding")


@dataclass(frozen=True, slots=True)
class Work:
    """Where the states lie, and how often they are saved, in seconds."""

    folder: Path
    save_every: float = 60.0


def denoiser(work: Work, budget: loop.Budget) -> None:
    """Train the denoiser from the embedded model's; the text encoder is the embedded model's as it is."""
    teacher = checkpoint.load_teacher()
    teacher.text.requires_grad_(False)
    known = (work.folder / STATE).exists()
    unet = wide_nets.denoiser() if known else wide_start.start(teacher)
    unet = unet.to(memory_format=torch.channels_last)
    inner = torch.nn.ParameterList(p for name, p in unet.named_parameters() if name.startswith(INNER))
    outer = torch.nn.ParameterList(p for name, p in unet.named_parameters() if not name.startswith(INNER))
    inside, outside, average = optimise.adam(inner), optimise.adam(outer), optimise.Average(unet, 0.998)

    def step(i: int, share: float) -> dict[str, Tensor]:
        random, rate = optimise.generator(7, i), optimise.linear(i, share, 50, 0.6)
        asked = scenes(80_000_000 + i, BATCH)
        clean = wide_nets.latents(to_tensor(render(asked)))
        dropped = torch.rand(len(asked), generator=random) < dataset.DROPPED
        captions = ["" if gone else scene.caption for gone, scene in zip(dropped, asked, strict=True)]
        with torch.no_grad():
            states = dataset.hidden(teacher.text, teacher.tokenizer, captions)
        loss, error = denoising(unet, clean, states, random)
        optimise.descend(loss, (inside, INNER_RATE * rate), (outside, RATE * rate))
        average.update()
        return {"mse": error, "loss": loss.detach()}

    parts = {"unet": unet, "inside": inside, "outside": outside, "average": average}
    loop.run(work.folder / STATE, parts, budget, step, BATCH, work.save_every)


def load(work: Work) -> checkpoint.Model | None:
    """The averaged denoiser of the work folder, if there is one, with the embedded model's text encoder."""
    path = work.folder / STATE
    if not path.exists():
        return None
    held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    unet, vae = wide_nets.denoiser(), wide_nets.autoencoder()
    unet.load_state_dict(held["average"]["kept"])
    teacher = checkpoint.load_teacher()
    return checkpoint.Model(teacher.text, unet.eval(), vae.eval(), teacher.tokenizer, schedule.ddim())


def publish(work: Work, out: Path) -> bool:
    """Write the pipeline folder, its card and its defaults; False while there is no state to write."""
    model = load(work)
    if model is None:
        return False
    checkpoint.save_teacher(model, out)
    (out / "edgediff_defaults.json").write_text(json.dumps({"defaults": DEFAULTS}) + "\n")
    spent = loop.spent(work.folder / STATE)
    counts = {name: round(spent[name]) for name in ("steps", "samples", "seconds")}
    (out / "training.json").write_text(json.dumps({**counts, "machine": loop.machine()}, indent=1) + "\n")
    (out / "README.md").write_text(CARD.format(**counts))
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, then write the folder."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    work = Work(options.work, options.save_every)
    if not options.publish:
        budget = loop.Budget(options.seconds)
        denoiser(work, budget if options.steps is None else loop.Budget(options.steps, "steps"))
    print("written" if publish(work, options.out) else "no state yet, so nothing was written", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference.wide", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--work", type=Path, default=Path("build/reference/wide"), help="folder of the states"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the checkpoint")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"budget; {SECONDS:.0f} unless given")
    parser.add_argument("--steps", type=int, help="budget in steps, which makes a run repeatable")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; one is best on shared cores")
    parser.add_argument("--save-every", type=float, default=60.0, help="seconds between states")
    parser.add_argument(
        "--publish", action="store_true", help="write the folder of the last state, train nothing"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
