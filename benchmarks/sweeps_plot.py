"""The sweeps as one picture. ``python -m benchmarks.sweeps_plot [RECORD] [PICTURE]``.

Three plots with logarithmic axes, on which a power law is a straight line and its exponent the slope.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.sweeps import RESULTS
from benchmarks.sweeps_fit import PROCESSOR, WALL
from edgediff.compare.axes import Axis
from edgediff.compare.colours import FAINT, INK, SOFT
from edgediff.compare.scene import Dot, Label, Scene, Shape, to_picture
from edgediff.compare.scene import Path as Line

Model = Callable[[float], float]
PICTURE = Path(__file__).parent.parent / "docs" / "sweeps.png"
_COLOURS = ("#0b5394", "#c2660d", "#2f7d4f", "#7d3c98", "#5c5c5c")
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 52, 384, 70, 350
_TITLES = {
    "pixels": ("Pixels of a side", "a denoiser's pass"),
    "batch": ("Pictures at once", "a denoiser's pass"),
    "steps": ("Steps", "a whole picture"),
}


def scene(stored: dict[str, Any], clock: str = WALL) -> Scene:
    """Return the plots side by side, with the exponents beside the names of the configurations.

    ``clock`` says which seconds: those that passed, or those of processors.
    """
    names = list(stored["configs"])
    record, of = stored[clock], "processor seconds" if clock == PROCESSOR else "seconds"
    sweeps = [s for s in _TITLES if any(f"{name}/{s}" in record["fits"] for name in names)]
    shapes: list[Shape] = []
    for i, sweep in enumerate(sweeps):
        shapes += _plot(record, sweep, names, of, _WIDTH * i)
    note = (
        "Dots: medians of visits, with the least and the largest. Dashed: the fitted sum of a linear and a "
        "quadratic term in width x height, or of a fixed and a linear one. Exponents: power laws, 95 %."
    )
    bottom = _BOTTOM + 74 + 20 * len(names)
    shapes.append(Label(_LEFT, bottom, note, 12, SOFT))
    return Scene(_WIDTH * len(sweeps), bottom + 24, tuple(shapes), note)


def _plot(record: dict[str, Any], sweep: str, names: Sequence[str], of: str, left: float) -> list[Shape]:
    found = {n: record["medians"][f"{n}/{sweep}"] for n in names if f"{n}/{sweep}" in record["fits"]}
    amounts = [float(a) for rows in found.values() for a in rows]
    times = [row[k] for rows in found.values() for row in rows.values() for k in ("min", "max")]
    ticks = tuple(sorted(set(amounts)))
    x = Axis(min(amounts) / 1.1, max(amounts) * 1.1, left + _LEFT, left + _RIGHT, ticks, True)
    y = Axis(min(times) / 1.25, max(times) * 1.25, _BOTTOM, _TOP, _decades(min(times), max(times)), True)
    title, unit = _TITLES[sweep]
    shapes: list[Shape] = [
        Label(left + _LEFT, 22, title, 15, INK),
        Label(left + _LEFT, 46, f"{of} of {unit}", 12, SOFT),
    ]
    for tick in y.ticks:
        shapes.append(Line(((x.first, y.at(tick)), (x.last, y.at(tick))), FAINT))
        shapes.append(Label(x.first - 8, y.at(tick), f"{tick:g}", 12, INK, "end"))
    for tick in x.ticks:
        shapes.append(Line(((x.at(tick), _TOP), (x.at(tick), _BOTTOM)), FAINT))
        shapes.append(Label(x.at(tick), _BOTTOM + 16, f"{tick:g}", 12, INK, "middle"))
    shapes.append(Line(((x.first, _TOP), (x.first, _BOTTOM), (x.last, _BOTTOM)), INK, 1.2))
    for i, name in enumerate(names):
        if name in found:
            shapes += _series(found[name], _model(record, sweep, name), x, y, _COLOURS[i % len(_COLOURS)])
            shapes += _key(record, sweep, name, left, i)
    return shapes


def _series(rows: dict[str, Any], model: Model, x: Axis, y: Axis, colour: str) -> list[Shape]:
    points = sorted((float(amount), row) for amount, row in rows.items())
    low, high = points[0][0], points[-1][0]
    along = [low * (high / low) ** (i / 24) for i in range(25)]
    curve = [(x.at(a), y.at(min(max(model(a), y.low), y.high))) for a in along]
    shapes: list[Shape] = [Line(tuple(curve), colour, 1.2, dashed=True)]
    for amount, row in points:
        at = x.at(amount)
        shapes.append(Line(((at, y.at(row["min"])), (at, y.at(row["max"]))), colour, 1.6))
        shapes.append(Dot(at, y.at(row["median"]), 4.5, colour, colour))
    return shapes


def _model(record: dict[str, Any], sweep: str, name: str) -> Model:
    """The fitted sum of two terms."""
    fit = record["fits"][f"{name}/{sweep}"]
    if sweep == "pixels":
        linear, quadratic = fit["linear_s_per_megapixel"], fit["quadratic_s_per_megapixel2"]
        return lambda side: linear * side**2 / 1e6 + quadratic * side**4 / 1e12
    return lambda amount: fit["fixed_s"] + fit["each_s"] * amount


def _key(record: dict[str, Any], sweep: str, name: str, left: float, row: int) -> list[Shape]:
    fit = record["fits"][f"{name}/{sweep}"]["all"]
    told = f"{name}: exponent {fit['exponent']:.2f} ({fit['low']:.2f} to {fit['high']:.2f})"
    if sweep == "pixels":
        told += " in width x height"  # the axis has a side
    y = _BOTTOM + 46 + 20 * row
    colour = _COLOURS[row % len(_COLOURS)]
    return [Dot(left + _LEFT + 4, y, 4.5, colour, colour), Label(left + _LEFT + 16, y, told, 12, INK)]


def _decades(low: float, high: float) -> tuple[float, ...]:
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    every = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    return tuple(t for t in every if low / 1.25 <= t <= high * 1.25)


def main() -> None:
    """Draw the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE)
    parser.add_argument("--processor", action="store_true", help="draw the seconds of processors")
    options = parser.parse_args()
    clock = PROCESSOR if options.processor else WALL
    image = to_picture(scene(json.loads(options.record.read_text(encoding="utf-8")), clock))
    stream = io.BytesIO()
    image.quantize(64).save(stream, format="PNG", optimize=True)
    options.picture.write_bytes(stream.getvalue())
    print(options.picture)


if __name__ == "__main__":
    main()
