"""What our own code costs per step, beside the network: ``python -m benchmarks.samplers_cost``.

The denoiser is a function that returns at once, so all that is timed is the sampler's arithmetic, in
microseconds a step, for latents of several model sizes. Medians of ``--repeats`` runs, with the smallest and
the largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from benchmarks.machine import card
from edgediff import sampler as samplers
from edgediff.noise import TorchNoise
from edgediff.schedule import Request

SHAPES = {"reference 64": (1, 16, 8, 8), "sd 512": (1, 4, 64, 64), "sdxl 1024": (1, 4, 128, 128)}
CONFIG = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
STEPS = 20


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    rows = []
    for name in samplers.names():
        if name == "flow_euler":
            continue  # the same step as euler
        solver = samplers.find(CONFIG, name)
        schedule = solver.schedule(Request(STEPS))
        for size, shape in SHAPES.items():
            x = TorchNoise(0).draw(shape)
            spent = []
            for _ in range(repeats):
                noise = TorchNoise(1)
                began = time.perf_counter()
                for _step in solver.sampler(lambda x, at: x, x, schedule, noise):
                    pass
                spent.append((time.perf_counter() - began) / STEPS * 1e6)
            rows.append(
                {
                    "sampler": name,
                    "latents": size,
                    "median_us": round(statistics.median(spent), 1),
                    "min_us": round(min(spent), 1),
                    "max_us": round(max(spent), 1),
                }
            )
    print(json.dumps({"machine": card(), "steps": STEPS, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
