"""From what bundles drew to the figures that are shown: likeness to the reference, latency, memory, size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff.bundle import Bundle
from edgediff.compare.asked import Asked, Entry
from edgediff.compare.front import costs, front
from edgediff.compare.turns import Drawn
from edgediff.quality import Tally, psnr_db, ssim, stored

SMALLEST = 11  # the side of SSIM's window


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture beside the reference's: PSNR in decibel (infinite for equal ones), SSIM (None for pictures
    too small to have one), and the largest difference of the channels, in levels of 255, (H, W)."""

    psnr_db: float
    ssim: float | None
    difference: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of one bundle.

    PSNR and SSIM are in relation to the reference, whose own are infinite and 1. ``psnr_db`` is that of all
    pictures as one long array, so that equal ones among them leave it finite; ``worst_...`` those of the
    picture with the lowest. ``latents_psnr_db`` is None where the latents' shapes differ. ``seconds`` are
    those of each picture, ``ready_s`` those of each start. ``on_front``: none of the others is at least as
    good in latency, likeness and size, and better in one.
    """

    entry: Entry
    bytes: int
    seconds: tuple[float, ...]
    ready_s: tuple[float, ...]
    peak_rss_bytes: int | None
    pairs: tuple[Pair, ...]
    psnr_db: float
    worst_psnr_db: float
    ssim: float | None
    worst_ssim: float | None
    latents_psnr_db: float | None
    on_front: bool
    drawn: Drawn

    @property
    def latency(self) -> float:
        """Median seconds of a picture."""
        return statistics.median(self.seconds)

    @property
    def started(self) -> float:
        """Median seconds from opening the bundle to the end of a first step and its decoding."""
        return statistics.median(self.ready_s)

    @property
    def receipt(self) -> Mapping[str, Any]:
        """What the bundle's manifest says of its quality; empty where it says nothing."""
        return self.entry.bundle.quality

    def stored(self) -> dict[str, Any]:
        """As JSON holds them; :data:`edgediff.quality.MOST` decibel stand for equal."""
        call = self.entry.call
        latents = self.latents_psnr_db
        return {
            "letter": self.entry.letter,
            "name": self.entry.name,
            "path": str(self.entry.bundle.path),
            "source": self.entry.bundle.origin.get("source"),
            "settings": {
                "sampler": call.solver.name,
                "num_inference_steps": call.steps.steps,
                "steps": len(call.schedule.hops),
                "guidance_scale": call.guidance_scale,
            },
            "bytes": self.bytes,
            "latency_s": {
                "median": round(self.latency, 5),
                "min": round(min(self.seconds), 5),
                "max": round(max(self.seconds), 5),
                "pictures": len(self.seconds),
            },
            "ready_s": round(self.started, 4),
            "peak_rss_bytes": self.peak_rss_bytes,
            "graphs": self.drawn.graphs,
            "latents_psnr_db": None if latents is None else stored(latents),
            "psnr_db": stored(self.psnr_db),
            "worst_psnr_db": stored(self.worst_psnr_db),
            "ssim": self.ssim,
            "worst_ssim": self.worst_ssim,
            "on_front": self.on_front,
            "pictures": [{"psnr_db": stored(p.psnr_db), "ssim": p.ssim} for p in self.pairs],
            "warnings": list(self.drawn.warnings),
        }


def figures(asked: Asked, drawn: Sequence[Drawn]) -> list[Figures]:
    """Return the figures of every bundle, the reference (the first) included."""
    made = [_of(entry, each, drawn[0]) for entry, each in zip(asked.entries, drawn, strict=True)]
    best = front([costs(m["latency"], m["psnr_db"], m["bytes"]) for m in made])
    return [
        Figures(on_front=on, **{k: v for k, v in m.items() if k != "latency"})
        for m, on in zip(made, best, strict=True)
    ]


def _of(entry: Entry, drawn: Drawn, reference: Drawn) -> dict[str, Any]:
    pairs = [pair(a, b) for a, b in zip(reference.pictures, drawn.pictures, strict=True)]
    pixels, latents = Tally(255.0), Tally()
    for a, b in zip(reference.pictures, drawn.pictures, strict=True):
        pixels.add(a, b)
    alike = reference.latents[0].shape == drawn.latents[0].shape
    for x, y in zip(reference.latents, drawn.latents, strict=True) if alike else ():
        latents.add(x, y)
    similar = [p.ssim for p in pairs if p.ssim is not None]
    return {
        "entry": entry,
        "drawn": drawn,
        "latency": statistics.median(drawn.seconds),
        "bytes": size(entry.bundle),
        "seconds": tuple(drawn.seconds),
        "ready_s": tuple(drawn.ready_s),
        "peak_rss_bytes": drawn.peak_rss_bytes,
        "pairs": tuple(pairs),
        "psnr_db": pixels.psnr_db,
        "worst_psnr_db": min(p.psnr_db for p in pairs),
        "ssim": statistics.fmean(similar) if similar else None,
        "worst_ssim": min(similar, default=None),
        "latents_psnr_db": latents.psnr_db if alike else None,
    }


def pair(reference: NDArray[np.uint8], found: NDArray[np.uint8]) -> Pair:
    """Compare two pictures of 8 bits, (H, W, 3)."""
    apart = np.abs(reference.astype(np.int16) - found.astype(np.int16)).max(axis=-1).astype(np.uint8)
    similar = ssim(reference, found) if min(found.shape[:2]) >= SMALLEST else None
    return Pair(psnr_db(reference, found, 255.0), similar, apart)


def size(bundle: Bundle) -> int:
    """Return the bytes of all files of a bundle: those its manifest lists, or those that lie there."""
    if bundle.files:
        return sum(record.bytes for record in bundle.files.values())
    return sum(file.stat().st_size for file in Path(bundle.path).rglob("*") if file.is_file())
