"""What decoding in tiles changes: ``python -m benchmarks.seams [--bundle BUNDLE --size 512]``.

The embedded model's decoder, which is trained and has group norms but no attention, decodes the latents of
rendered scenes and of a picture of dead leaves (edges at every scale); ``--bundle`` adds any other bundle's
decoders, on smooth random latents. Each row compares a decode in tiles with the whole one:

* PSNR over all pixels, peak 1.
* The seam: the difference to the whole decode is differenced along each axis, its mean absolute value is
  taken of every row and column (as blockiness measures take that of the picture: Wang, Sheikh and Bovik,
  2002, "No-reference perceptual quality assessment of JPEG compressed images", eq. 1), and of the lines where
  tiles meet the worst is given, in levels of 8 bits. Tiles that are put side by side without overlap are
  measured too, so that the figure is seen to move.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgediff
from benchmarks import machine
from benchmarks.reference.grammar import scenes
from benchmarks.reference.render import render
from edgediff import tiling
from edgediff.export.quantize.scenes import dead_leaves
from edgediff.pipeline import EMBEDDED

RESULTS = Path(__file__).parent / "results" / "seams.json"
Array = np.ndarray[Any, np.dtype[np.float32]]
Bands = np.ndarray[Any, np.dtype[np.bool_]]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, help="also the decoders of this bundle")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 384])
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    rows = record.setdefault("rows", {})
    record["machine"] = machine.card()
    if options.bundle is None:
        pipe = edgediff.load(EMBEDDED)
        shown = {
            "scenes": render(scenes(3, options.scenes, "heldout-captions"), options.size) / np.float32(255),
            "dead leaves": dead_leaves({"height": options.size, "width": options.size}, 1)[None],
        }
        for name, pictures in shown.items():
            signed = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2) * 2 - 1, np.float32)
            latents = np.concatenate([pipe.encode(each[None]) for each in signed])
            rows[f"embedded, {name}"] = compared(pipe, latents, "full", options.tiles)
    else:
        pipe = edgediff.load(options.bundle, device=options.device)
        latents = smooth(pipe.bundle, options.size)
        for decoder in ("full", "tiny") if pipe.bundle.tiny_decoder is not None else ("full",):
            rows[f"{options.bundle.name}, {decoder}"] = compared(pipe, latents, decoder, options.tiles)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(table(rows) + "\n", encoding="utf-8")
    print(table(rows))


def smooth(bundle: edgediff.Bundle, size: int) -> Array:
    """Latents of unit variance whose neighbours are alike, as those of pictures are: noise, blurred."""
    facts = bundle.latents
    noise = np.random.default_rng(0).standard_normal(
        (1, facts.channels, *(size // factor for factor in facts.downscale.values()))
    )
    for axis in (2, 3):
        for _ in range(2):
            noise = (np.roll(noise, 1, axis) + noise + np.roll(noise, -1, axis)) / 3
    return (noise / noise.std()).astype(np.float32)


def compared(pipe: edgediff.Pipeline, latents: Array, decoder: str, tiles: list[int]) -> dict[str, Any]:
    """The rows of one decoder: side by side, and in overlapping tiles of several sizes."""
    factor = max(pipe.bundle.latents.downscale.values())
    began = time.perf_counter()
    whole = pipe.decode(latents, "np", decoder=decoder)
    rows: dict[str, Any] = {"whole": {"seconds": round(time.perf_counter() - began, 2)}}

    def side_by_side() -> Any:
        step = tiles[0] // factor
        height, width = latents.shape[2:]
        cut = [
            [
                pipe.decode(latents[:, :, i : i + step, j : j + step], "np", decoder=decoder)
                for j in range(0, width, step)
            ]
            for i in range(0, height, step)
        ]
        return np.concatenate([np.concatenate(row, axis=2) for row in cut], axis=1)

    height, width = (extent * factor for extent in latents.shape[2:])
    ways: dict[str, tuple[Callable[[], Any], list[Bands]]] = {
        f"{tiles[0]}, side by side": (side_by_side, [_cuts(each, tiles[0]) for each in (height, width)])
    }
    for tile in tiles:
        bands = [_shared(extent, tile // factor, factor) for extent in latents.shape[2:]]
        ways[str(tile)] = (
            lambda tile=tile: pipe.decode(latents, "np", decoder=decoder, tile_decode=tile), bands,
        )  # fmt: skip
    for name, (way, bands) in ways.items():
        began = time.perf_counter()
        made = way()
        rows[name] = {"seconds": round(time.perf_counter() - began, 2), **measured(made, whole, bands)}
        print(name, rows[name], flush=True)
    return rows


def _cuts(extent: int, tile: int) -> Bands:
    """Of the differences along an axis of ``extent`` pixels, those over a cut."""
    found = np.zeros(extent - 1, bool)
    found[tile - 1 :: tile] = True
    return found


def _shared(extent: int, tile: int, factor: int) -> Bands:
    """Of the differences along an axis of ``extent`` latents, in pixels, those where two tiles are mixed."""
    found = np.zeros(extent * factor - 1, bool)
    spans = tiling.spans(extent, tile, factor)
    for one, other in itertools.pairwise(spans):
        found[other.start * factor : one.stop * factor - 1] = True
    return found


def measured(made: Array, whole: Array, bands: Sequence[Bands]) -> dict[str, float]:
    """PSNR, and the seam in levels, of pictures (B, H, W, 3) in [0, 1]; the worst picture's.

    ``bands`` say of the differences along height and width which lie where tiles meet.
    """
    psnr, seam = [], []
    for one, other in zip(made.astype(np.float64), whole.astype(np.float64), strict=True):
        error = one - other
        psnr.append(-10 * np.log10(np.square(error).mean()))
        for axis, band in enumerate(bands):
            lines = 255 * np.abs(np.diff(error, axis=axis)).mean(axis=(1 - axis, 2))
            seam.append(lines[band].max())
    return {"psnr_db": round(float(min(psnr)), 1), "seam_levels": round(float(max(seam)), 2)}


def table(rows: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| decoder, pictures | tiles | PSNR dB | seam, levels |",
        "|---|---|---|---|",
    ]
    for name, ways in rows.items():
        for way, found in ways.items():
            if way != "whole":
                figures = (found[key] for key in ("psnr_db", "seam_levels"))
                lines.append(f"| {name} | {way} | {' | '.join(map(str, figures))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
