"""What our own code costs per step, beside the network: ``python -m benchmarks.samplers_cost [--network]``.

The denoiser is a function that returns at once, so all that is timed is the sampler's arithmetic and its
noise, in microseconds a step, for latents of several model sizes. Medians of ``--repeats`` runs, with the
smallest and the largest. ``--network`` also exports a U-Net of Stable Diffusion 1.5's size with random
weights and times one guided pass (a batch of two) at 64x64 latents, so that the share can be stated; other
sizes are given the same time for each latent number, which is a lower bound: their networks are larger, and
attention grows faster than that.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import card
from edgediff import denoise
from edgediff import sampler as samplers
from edgediff.noise import TorchNoise
from edgediff.sampler import Array
from edgediff.schedule import Point, Request

SHAPES = {
    "reference 64": (1, 16, 8, 8), "sd 512": (1, 4, 64, 64), "sdxl 1024": (1, 4, 128, 128),
    "video 21x60x104": (1, 16, 21, 60, 104),
}  # fmt: skip
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STEPS = 20
SD15 = {
    "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "cross_attention_dim": 768, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4,
}  # fmt: skip


def main() -> None:
    """Measure; print one JSON object and a line for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--network", action="store_true", help="time a U-Net of SD 1.5's size too")
    parser.add_argument("--out", type=Path, help="write the JSON there")
    options = parser.parse_args()
    passes = _network_seconds() if options.network else []
    rows = []
    for name in samplers.names():
        for size, shape in SHAPES.items():
            repeats = options.repeats if math.prod(shape) < 10**6 else 3
            rows.append({"sampler": name, "latents": size, **_step(name, shape, repeats)})
            if passes:
                share = rows[-1]["median_us"] / (1e6 * _scaled(statistics.median(passes), shape))
                rows[-1]["percent_of_network"] = round(100 * share, 4)
    found: dict[str, Any] = {"machine": card(), "steps": STEPS, "rows": rows}
    if passes:
        found["network"] = {
            "seconds": [round(p, 3) for p in passes],
            "what": "SD 1.5 U-Net, batch 2, 64x64, fp32",
        }
    text = json.dumps(found, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)
    for size in SHAPES:
        of_size = [row for row in rows if row["latents"] == size]
        worst = max(of_size, key=lambda row: row["median_us"])
        middle = statistics.median(row["median_us"] for row in of_size)
        share = f", at most {worst['percent_of_network']} % of the network" if passes else ""
        print(
            f"{size}: median {middle:.0f} us a step; most {worst['median_us']:.0f} "
            f"({worst['sampler']}){share}"
        )


def _step(name: str, shape: tuple[int, ...], repeats: int) -> dict[str, float]:
    solver = samplers.find(CONFIG, name)
    schedule = solver.schedule(Request(STEPS, tokens=1024))
    x = TorchNoise(0).draw(shape)
    predict = denoise.denoiser(lambda x, at: x, solver.conversion)
    spent = []
    for _ in range(repeats):
        noise = TorchNoise(1)
        began = time.perf_counter()
        for _step in solver.sampler(predict, np.float32(schedule.start) * x, schedule, noise):
            pass
        spent.append((time.perf_counter() - began) / len(schedule.hops) * 1e6)
    return {
        "median_us": round(statistics.median(spent), 1), "min_us": round(min(spent), 1),
        "max_us": round(max(spent), 1),
    }  # fmt: skip


def _scaled(seconds: float, shape: tuple[int, ...]) -> float:
    return seconds * math.prod(shape) / math.prod(SHAPES["sd 512"])


def _network_seconds(repeats: int = 3) -> list[float]:
    """Seconds of guided passes of the network that is timed beside us."""
    from edgediff import Bundle
    from edgediff.conditioning import conditioned
    from edgediff.export.main import export_onnx
    from edgediff.parts import Parts
    from tests.export import export_helpers as helpers

    with tempfile.TemporaryDirectory() as scratch:
        text = {**helpers.TINY_TEXT, "hidden_size": 768}
        folder = helpers.model_folder(Path(scratch) / "model", text=text, unet=SD15, dtype="float16")
        export_onnx(str(folder), str(Path(scratch) / "bundle"), dtype="fp16", verify=False)
        parts = Parts(Bundle.open(Path(scratch) / "bundle"))
        texts: Array = TorchNoise(1).draw((2, 77, 768))
        network, x = conditioned(parts, texts, 1.0), TorchNoise(0).draw((2, 4, 64, 64))
        spent = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            network(x, Point(500.0, 1.0, 0.0))
            spent.append(time.perf_counter() - began)
    return spent[1:]


if __name__ == "__main__":
    main()
