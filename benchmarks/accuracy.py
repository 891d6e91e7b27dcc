"""Judged accuracy of what ships: ``python -m benchmarks.accuracy``.

Bundles are run by edgediff itself, exactly as an app would. The ceiling is the score of the autoencoder's
round trips of clean renderings; the teacher draws with 20 DDIM steps and guidance; the student, which is the
embedded model, with 1, 2, 4 and 8 steps. Each is asked for captions, and for (colour, shape) pairs, that
training never saw. Rows are written to ``benchmarks/reference/results.json`` as they are measured; ``--only``
measures some of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import edgediff
from benchmarks import machine
from benchmarks.reference import bundle as bundles
from benchmarks.reference import card
from benchmarks.reference.grammar import scenes
from benchmarks.reference.render import render
from benchmarks.reference.score import Draw, score_draw, score_pictures
from edgediff.export.main import export_onnx
from edgediff.media import to_bytes
from edgediff.pipeline import EMBEDDED

RESULTS = Path(__file__).parent / "reference" / "results.json"
SPLITS = ("heldout-captions", "heldout-pairs")
STEPS = (1, 2, 4, 8)


def main() -> None:
    """Measure the rows asked for and merge them into the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--captions", type=int, default=500, help="captions of each split")
    parser.add_argument(
        "--only", nargs="*", choices=["ceiling", "teacher", "student"], help="rows to measure"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    wanted = options.only or ["ceiling", "teacher", "student"]
    held = {split: scenes(2026, options.captions, split) for split in SPLITS}
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    results |= {"machine": machine.card(), "captions": options.captions}
    student = edgediff.load(EMBEDDED)
    if "ceiling" in wanted:
        results["ceiling"] = {split: round_trip(student, held[split]) for split in SPLITS}
        keep(results, options.out)
    if "teacher" in wanted:
        with tempfile.TemporaryDirectory() as scratch:
            bundles.assemble(Path(scratch) / "model", teacher=True)
            export_onnx(str(Path(scratch) / "model"), str(Path(scratch) / "bundle"), dtype="fp16")
            teacher = edgediff.load(Path(scratch) / "bundle")
            results["guidance"] = {"teacher": teacher.bundle.defaults.guidance_scale}
            measure(results, "teacher, 20 steps", drawer(teacher, 20), held)
        keep(results, options.out)
    if "student" in wanted:
        results.setdefault("guidance", {})["student"] = student.bundle.defaults.guidance_scale
        for steps in STEPS:
            measure(results, f"student, {steps} step{'s' * (steps > 1)}", drawer(student, steps), held)
            keep(results, options.out)
    if options.out == RESULTS:
        card.write()


def drawer(pipe: edgediff.Pipeline, steps: int) -> Draw:
    """Return a function that draws a list of captions with one seed for the batch."""

    def draw(captions: list[str], seed: int) -> Any:
        return to_bytes(pipe(captions, seed=seed, num_inference_steps=steps, output_type="np").images)

    return draw


def measure(results: dict[str, Any], name: str, draw: Draw, held: dict[str, Any]) -> None:
    """Score one row on every split."""
    began = time.perf_counter()
    results[name] = {split: score_draw(draw, asked, batch=25) for split, asked in held.items()}
    shares = {split: results[name][split]["scores"]["whole"]["share"] for split in held}
    print(f"{name}: {shares} ({time.perf_counter() - began:.0f} s)", flush=True)


def round_trip(pipe: edgediff.Pipeline, asked: Any, batch: int = 25) -> dict[str, Any]:
    """Clean renderings through encoder and decoder."""
    clean = render(asked)
    back = []
    for start in range(0, len(clean), batch):
        x = clean[start : start + batch].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        means = pipe.encode(np.ascontiguousarray(x))
        back.append(to_bytes(pipe.decode(means, "np")))
    pictures = np.concatenate(back)
    error = float(np.square((pictures.astype(np.float64) - clean) / 255).mean())
    return {"decibel": round(-10 * float(np.log10(error)), 2), **score_pictures(asked, pictures)}


def keep(results: dict[str, Any], out: Path) -> None:
    """Write what there is so far."""
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
