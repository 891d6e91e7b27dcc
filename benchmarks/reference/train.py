"""Train the reference model: ``python -m benchmarks.reference.train``.

Stages: autoencoder, denoiser, distill; all of them one after the other unless one is named. A stage that was
stopped goes on from its last state in the work folder, which is seldom older than half a minute. With
--from-checkpoint a stage that has no state yet starts from checkpoint/ and student/ instead of from nothing,
with a fresh optimiser and a warm-up; its states lie apart from the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.reference import autoencoder, checkpoint, denoiser, distill, loop, schedule

STAGES = {"autoencoder": autoencoder.train, "denoiser": denoiser.train, "distill": distill.train}
PHASES = {
    "autoencoder": ("fit", "decoder"),
    "denoiser": ("parsing", "joint", "denoiser"),
    "distill": ("distill",),
}
SECONDS = {"autoencoder": 1800.0, "denoiser": 5400.0, "distill": 1800.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is asked for."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    folder = f"{options.size}-from-checkpoint" if options.from_checkpoint else str(options.size)
    setting = loop.Setting(
        options.work / folder,
        options.size,
        options.device,
        options.out if options.from_checkpoint else None,
        options.compile,
        options.batch,
        options.pictures,
        options.save_every,
    )
    for stage in STAGES if options.stage == "all" else (options.stage,):
        amount, unit = options.steps.get(stage), "steps"
        if amount is None:
            amount, unit = options.seconds.get(stage, SECONDS[stage]), "seconds"
        run(stage, setting, loop.Budget(amount, unit), options.out)


def run(stage: str, setting: loop.Setting, budget: loop.Budget, out: Path) -> None:
    """Train one stage; if it took a step, write the checkpoints and a line of the log."""
    before = spent(stage, setting)
    found = STAGES[stage](setting, budget) or {}
    after = spent(stage, setting)
    if after == before:
        print(f"{stage}: its budget was spent before; a larger one, or another --work, goes on", flush=True)
        return
    total = {name: sum(phase[name] for phase in after.values()) for name in ("steps", "seconds", "samples")}
    total["seconds"] = round(total["seconds"])
    source = {"from": "checkpoint" if setting.start else "nothing", "size": setting.size}
    loop.log(out / "training_log.json", stage, {**source, **total, **found}, setting.device)
    publish(stage, setting, out)


def spent(stage: str, setting: loop.Setting) -> dict[str, Any]:
    """What each phase of a stage has spent so far."""
    paths = [setting.work / f"{phase}.pt" for phase in PHASES[stage]]
    return {path.stem: loop.spent(path) for path in paths if path.exists()}


def publish(stage: str, setting: loop.Setting, out: Path) -> None:
    """Write the folder that a stage has a part in: checkpoint/, or student/ after distillation."""
    student = distill.load(setting) if stage == "distill" else None
    if student is not None:
        checkpoint.save_student(student, schedule.lcm(), out / "student")
        return
    reader = denoiser.load(setting)
    vae = autoencoder.load(setting) if reader else None
    if reader is None or vae is None:
        print("no checkpoint yet: it takes both an autoencoder and a denoiser", flush=True)
        return
    model = checkpoint.Model(reader.text, reader.unet, vae, reader.words, schedule.ddim())
    checkpoint.save_teacher(model, out / "checkpoint")


def amounts(text: str) -> dict[str, float]:
    """Read ``autoencoder=600,distill=300``."""
    pairs = [item.partition("=") for item in text.split(",")]
    if unknown := [name for name, _, _ in pairs if name not in STAGES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(STAGES)}")
    try:
        return {name: float(value) for name, _, value in pairs}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not STAGE=NUMBER,...") from error


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("stage", nargs="?", default="all", choices=[*STAGES, "all"])
    parser.add_argument("--work", type=Path, default=Path("build/reference"), help="folder of the states")
    parser.add_argument("--out", type=Path, default=checkpoint.HERE, help="folder of the checkpoints")
    usual = "budgets; without one: " + ", ".join(f"{stage}={n:.0f}" for stage, n in SECONDS.items())
    parser.add_argument("--seconds", type=amounts, default={}, metavar="STAGE=N,...", help=usual)
    parser.add_argument(
        "--steps", type=amounts, default={}, metavar="STAGE=N,...", help="budgets that make a run repeatable"
    )
    parser.add_argument("--size", type=int, default=64, choices=(64, 128), help="pixels of a picture's side")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; one is best on shared cores")
    parser.add_argument("--from-checkpoint", action="store_true", help="start from the folders in --out")
    parser.add_argument("--compile", action="store_true", help="compile the decoder: pays after minutes")
    parser.add_argument("--batch", type=int, help="pictures in a step, instead of each phase's own number")
    parser.add_argument("--pictures", type=int, default=61_440, help="pictures in the cached data set")
    parser.add_argument("--save-every", type=float, default=30.0, help="seconds between states")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
