"""A few-step model without its own sampler: ``python -m benchmarks.coreml_steps``.

Apple's Swift package draws with PNDM or DPM-Solver++ alone. The embedded model was distilled for LCM's
sampler. Here it draws the same held-out captions under the same seeds with its own sampler, and with
DPM-Solver++ at the timesteps that Apple's scheduler takes; with one to three steps it is of first order,
which is DDIM. The exact judge says which pictures show all that their caption states.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import edgediff
from benchmarks import machine
from benchmarks.paired import difference
from benchmarks.reference.grammar import scenes
from benchmarks.reference.judge import judge
from benchmarks.reference.score import marks, rate
from edgediff.media import to_bytes
from edgediff.pipeline import EMBEDDED

RESULTS = Path(__file__).parent / "results" / "coreml_steps.json"
STEPS = (1, 2, 4, 8)
OWN, FIRST, SECOND = "lcm", "ddim", "dpmpp_2m"
ONLY_FIRST = 3  # steps up to which Apple's DPM-Solver++ is first order throughout
SPLIT, BATCH = "heldout-captions", 25


def apple_timesteps(steps: int, trained: int = 1000) -> list[int]:
    """The timesteps of Apple's DPMSolverMultistepScheduler with its default spacing, ``linspace``: from the
    last trained one down, evenly, without 0; halves are rounded up."""
    return [int((trained - 1) * i / steps + 0.5) for i in range(steps, 0, -1)]


def main() -> None:
    """Measure all rows, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    wanted = list(scenes(2026, options.captions, SPLIT))
    rows: dict[str, Any] = {}
    with edgediff.load(EMBEDDED) as pipe:
        own = drawn(pipe, wanted, sampler=OWN, num_inference_steps=pipe.bundle.defaults.num_inference_steps)
        rows["its own"] = {"sampler": OWN, "accuracy": rate(sum(own), len(own))}
        for steps in STEPS:
            sampler = FIRST if steps <= ONLY_FIRST else SECOND
            right = drawn(pipe, wanted, sampler=sampler, timesteps=apple_timesteps(steps))
            accuracy = {"accuracy": rate(sum(right), len(right))}
            rows[str(steps)] = {"sampler": sampler, **accuracy, "difference": difference(own, right)}
            print(f"{steps}: {rows[str(steps)]}", flush=True)
        steps = pipe.bundle.defaults.num_inference_steps
    record = {"machine": machine.card(), "captions": options.captions, "own_steps": steps, "rows": rows}
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(options.out)


def drawn(pipe: edgediff.Pipeline, wanted: list[Any], **how: Any) -> list[bool]:
    """Which of the scenes are drawn right."""
    found = []
    for start in range(0, len(wanted), BATCH):
        some = wanted[start : start + BATCH]
        made = pipe([scene.caption for scene in some], seed=start, output_type="np", **how).images
        for scene, picture in zip(some, to_bytes(made), strict=True):
            found.append(all(all(each) for each in marks(scene, judge(picture)).values()))
    return found


if __name__ == "__main__":
    main()
