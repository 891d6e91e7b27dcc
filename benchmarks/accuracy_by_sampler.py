"""Judged accuracy of the reference model by sampler and steps: ``python -m benchmarks.accuracy_by_sampler``.

The teacher, which was not distilled, draws captions that training never saw by each sampler and number of
steps, the same captions and seeds for all; an exact judge says how many whole captions are right. The table
is written into docs/samplers.md, the numbers into benchmarks/results/accuracy_by_sampler.json.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import edgediff
from benchmarks import machine
from benchmarks.reference import bundle as bundles
from benchmarks.reference.grammar import scenes
from benchmarks.reference.score import score_draw
from edgediff.export.main import export_onnx
from edgediff.media import to_bytes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "accuracy_by_sampler.json"
PAGE = ROOT / "docs" / "samplers.md"
START, END = "<!-- accuracy: written by benchmarks/accuracy_by_sampler.py -->", "<!-- end of accuracy -->"
# The teacher predicts v on a schedule that ends without signal: samplers that divide by that signal, or lay
# sigmas out between the table's ends, are not made for it and are left out.
SAMPLERS = ("ddim", "ddpm", "euler", "euler_ancestral", "heun", "lms", "pndm", "dpmpp_2m", "dpmpp_2m_sde",
            "dpmpp_3m", "dpmpp_2s", "unipc", "sa_solver")  # fmt: skip
STEPS = (4, 8, 20)


def main() -> None:
    """Measure every row that is not there yet, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--keep", action="store_true", help="measure only what the results do not hold yet")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    held = scenes(2026, options.captions, "heldout-captions")
    found: dict[str, Any] = {}
    if options.keep and RESULTS.exists():
        found = json.loads(RESULTS.read_text())["rows"]
    with tempfile.TemporaryDirectory() as scratch:
        bundles.assemble(Path(scratch) / "model", teacher=True)
        export_onnx(str(Path(scratch) / "model"), str(Path(scratch) / "bundle"), dtype="fp16")
        pipe = edgediff.load(Path(scratch) / "bundle", threads=options.threads)
        for name in SAMPLERS:
            for steps in STEPS:
                if f"{name} {steps}" not in found:
                    found[f"{name} {steps}"] = _measure(pipe, name, steps, held)
                    print(name, steps, found[f"{name} {steps}"], flush=True)
                    _keep(found, options.captions)
    _write(found, options.captions)


def _measure(pipe: edgediff.Pipeline, name: str, steps: int, held: Any) -> dict[str, Any]:
    began = time.perf_counter()

    def draw(captions: list[str], seed: int) -> Any:
        images = pipe(captions, seed=seed, num_inference_steps=steps, sampler=name, output_type="np").images
        return to_bytes(images)

    try:
        score = score_draw(draw, held, batch=25)["scores"]["whole"]["share"]
    except edgediff.EdgediffError as error:
        return {"refused": str(error)}
    return {"whole": score, "seconds": round(time.perf_counter() - began, 1)}


def _keep(found: dict[str, Any], captions: int) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    head = {"machine": machine.card(), "captions": captions, "guidance": 3.0}
    RESULTS.write_text(json.dumps({**head, "rows": found}, indent=1) + "\n")


def _write(found: dict[str, Any], captions: int) -> None:
    spread = 196 * math.sqrt(0.25 / captions)
    lines = [
        f"Whole captions right, %, of {captions} that training never saw (at most +-{spread:.0f} at 95 %), "
        "by the teacher of the embedded model at guidance 3:",
        "",
        f"| sampler | {' | '.join(f'{n} steps' for n in STEPS)} |",
        f"| --- |{' --- |' * len(STEPS)}",
    ]
    for name in SAMPLERS:
        rows = [found[f"{name} {steps}"] for steps in STEPS]
        cells = ["refused" if "refused" in row else f"{100 * row['whole']:.1f}" for row in rows]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    text = PAGE.read_text()
    before, after = text.partition(START)[0], text.partition(END)[2]
    PAGE.write_text(before + START + "\n" + "\n".join(lines) + "\n\n" + END + after)
    print(PAGE)


if __name__ == "__main__":
    main()
