"""What the golden files say, computed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from edgediff import noise as streams
from edgediff import sampler as samplers
from edgediff import tables
from edgediff.noise import TorchNoise
from edgediff.sampler import Array
from edgediff.schedule import Point, Request

HERE = Path(__file__).parent
STEPS = 5
SHAPE = (1, 2, 2, 2)
SEEDS = (*range(10), 42, 1234, 65535, 65536, 2**24, 2**31 - 1, 2**31, 123456789, 2**32 - 2, 2**32 - 1)
SHAPES = ((7,), (1, 4, 8, 8), (1, 4, 64, 64), (2, 16, 13, 9))
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
          "skip_prk_steps": True}  # fmt: skip
EXTRA: dict[str, dict[str, Any]] = {
    "ddim-clipped": {"sampler": "ddim", "clip_sample": True, "eta": 0.5},
    "dpmpp_2m-thresholded": {"sampler": "dpmpp_2m", "thresholding": True, "prediction_type": "v_prediction"},
    "euler-zero-snr": {
        "sampler": "euler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "flow_euler-shifted": {"sampler": "flow_euler", "shift": 3.0},
}  # fmt: skip
"""Tables beyond every sampler's plain one."""


def recorded() -> dict[str, tables.Table]:
    """Return the golden tables: each sampler at STEPS steps, and EXTRA."""
    found = {}
    for name in samplers.names():
        found[name] = _table(name, {})
    for name, options in EXTRA.items():
        found[name] = _table(options["sampler"], {k: v for k, v in options.items() if k != "sampler"})
    return found


def _table(name: str, options: dict[str, Any]) -> tables.Table:
    solver = samplers.find({**CONFIG, **options}, name)
    return tables.record(solver, solver.schedule(Request(STEPS)))


def tables_by_name() -> dict[str, str]:
    """Return the golden tables as text."""
    return {name: tables.dumps(table) for name, table in recorded().items()}


def network(x: Array, at: Point) -> Array:
    """The network that docs/tables.md writes down."""
    return np.asarray(0.5 * x + 0.1 * np.sin(3 * x) + at.t / 2000, x.dtype)


class Remembered(TorchNoise):
    """A noise stream that remembers what it gave."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.given: list[Array] = []

    def draw(self, shape: tuple[int, ...]) -> Array:
        self.given.append(super().draw(shape))
        return self.given[-1]


def sampled() -> list[dict[str, Any]]:
    """Return, for each golden table, the start, the draws, and the sample after each step."""
    rows = []
    for name, table in recorded().items():
        noise = Remembered(2)
        x = np.float32(table.start) * TorchNoise(1).draw(SHAPE)
        steps = list(tables.run(table, network, x, noise))
        rows.append(
            {
                "table": f"tables/{name}.json",
                "shape": SHAPE,
                "x": _numbers(x),
                "draws": [_numbers(draw) for draw in noise.given],
                "steps": [_numbers(step.x) for step in steps],
            }
        )
    return rows


def _numbers(array: Array) -> list[float]:
    return [float(f"{value:.9g}") for value in array.ravel()]


def noise() -> list[dict[str, Any]]:
    """Return sums and first values of the noise streams: two draws in a row of each seed and shape."""
    rows = []
    for source in streams.SOURCES:
        for seed in SEEDS:
            for shape in SHAPES:
                stream = streams.stream(source, seed)
                first, second = stream.draw(shape), stream.draw(shape)
                rows.append(
                    {
                        "noise": source,
                        "seed": seed,
                        "shape": shape,
                        "sha256": [_digest(first), _digest(second)],
                        "first": _numbers(first.ravel()[:3]),
                    }
                )
    return rows


def _digest(array: Array) -> str:
    return hashlib.sha256(array.astype("<f4").tobytes()).hexdigest()
