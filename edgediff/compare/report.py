"""A comparison from its checked request to the content of its files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edgediff import __version__, media, metadata
from edgediff.compare import output, units
from edgediff.compare.asked import Asked
from edgediff.compare.figures import Figures, figures
from edgediff.compare.marks import Point
from edgediff.compare.page import page
from edgediff.compare.pareto import plot
from edgediff.compare.scene import to_picture
from edgediff.compare.sheet import sheet
from edgediff.compare.svg import to_svg
from edgediff.compare.turns import Say, draw
from edgediff.machine import card

if TYPE_CHECKING:
    from PIL.Image import Image

_WHAT = {
    "A turn": "a process of its own opens the bundle, runs one step and its decoding to warm up, then draws "
    "its share of the pictures. Bundles take turns, every other round in reverse order, one at a time.",
    "Latency": "seconds from the prompt to pixels, text encoding and decoding included; the median of all "
    "pictures, with the fastest and the slowest.",
    "Peak memory": "the most resident memory that the process had, Python and its libraries included.",
    "PSNR": "10 log10(255² / mean squared difference) of all pictures together, then of the worst one; of "
    "the final latents with their range as the peak.",
    "SSIM": "Wang et al. (2004), 11x11 Gaussian windows; the mean of the pictures, then the worst.",
    "Pareto front": "bundles that no other beats: none is at least as fast, as close to A and as small, and "
    "better in one of the three.",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison that was made: what was asked, the figures, and where and when that was."""

    asked: Asked
    options: Mapping[str, Any]
    found: Sequence[Figures]
    machine: Mapping[str, Any]
    made: str

    def record(self) -> dict[str, Any]:
        """Return all figures as JSON holds them."""
        height, width = self.asked.size
        return {
            "edgediff_version": __version__,
            "made": self.made,
            "machine": dict(self.machine),
            "options": dict(self.options),
            "size": {"height": height, "width": width},
            "rounds": self.asked.rounds,
            "pictures": [{"prompt": prompt, "seed": seed} for prompt, seed in self.asked.draws],
            "bundles": [each.stored() for each in self.found],
        }

    def warnings(self) -> dict[str, str]:
        """Return each warning once, and the letters of the bundles that gave it."""
        letters: dict[str, list[str]] = {}
        for each in self.found:
            for warning in each.drawn.warnings:
                letters.setdefault(warning, []).append(each.entry.letter)
        return {warning: ", ".join(of) for warning, of in letters.items()}

    def files(self) -> dict[str, bytes]:
        """Return the content of the comparison's files by name."""
        scene = plot([_point(each) for each in self.found])
        mark = metadata.describe(None)  # a model drew what the sheet shows
        return {
            output.PAGE: page(self.found, self.asked.draws, to_svg(scene), self._facts()).encode(),
            output.SHEET: media.encoded(sheet(self.found, self.asked.draws, self._footer()), "PNG", mark),
            output.PLOT: _png(to_picture(scene)),
            output.FIGURES: (json.dumps(self.record(), indent=2) + "\n").encode(),
        }

    def _footer(self) -> str:
        height, width = self.asked.size
        machine = f"{self.machine.get('processor')}, {self.machine.get('cores')} cores"
        return units.visible(
            f"{width}x{height} pixels, equal seeds, reference A; latency is the median per picture. Device "
            f"{self.options['device']}: {machine}. edgediff {__version__}, {self.made[:10]}"
        )

    def _facts(self) -> dict[str, dict[str, Any]]:
        height, width = self.asked.size
        seeds = dict.fromkeys(seed for _, seed in self.asked.draws)
        threads = self.options["threads"]
        settings: dict[str, Any] = {
            "Pictures": f"{len(self.asked.draws)} of each bundle, {width}x{height} pixels",
            "Seeds": ", ".join(map(str, seeds)),
            "Turns": f"{self.asked.rounds} of each bundle",
            "Device": f"{self.options['device']}, runtime {self.options['runtime']}, threads "
            f"{'as many as cores' if threads is None else threads}",
        }
        for each in self.found:
            settings[f"{each.entry.letter}"] = str(each.entry.bundle.path)
            ran = [f"{r}: {' '.join(filter(None, form))}" for r, form in each.drawn.graphs.items()]
            settings[f"{each.entry.letter} ran"] = ", ".join(ran)
        for warning, letters in self.warnings().items():
            said = f"{letters} warned"
            settings[said] = " ".join(filter(None, (settings.get(said), units.shortened(warning, 400))))
        machine = {name.replace("_", " "): value for name, value in self.machine.items()}
        machine |= {"made": self.made, "edgediff": __version__}
        return {"Settings": settings, "Machine": machine, "What the figures are": dict(_WHAT)}


def compared(asked: Asked, options: Mapping[str, Any], say: Say | None = None) -> Report:
    """Draw, compare and return the report; arguments and errors are those of :func:`.turns.draw`."""
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Report(asked, options, figures(asked, draw(asked, options, say)), card(), made)


def _point(each: Figures) -> Point:
    name = units.shortened(units.visible(each.entry.name), 30)
    fastest, slowest = min(each.seconds), max(each.seconds)
    return Point(
        each.entry.letter, name, each.latency, fastest, slowest, each.psnr_db, each.bytes, each.on_front
    )


def _png(image: Image) -> bytes:
    stream = io.BytesIO()
    image.quantize(256).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
