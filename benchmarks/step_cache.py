"""What steps without the whole network, and without guidance, cost: ``python -m benchmarks.step_cache``.

The trained teacher of the embedded model (guided, made for 20 steps) draws held-out captions under the same
seeds in each way; the exact judge says which pictures show all that their caption states. Differences are
paired with the untouched walk of the same sampler and steps, PSNR is that of the final latents, peak their
range. Beside each cached walk stands one of fewer steps that makes about as much work. Work is counted in
passes of one row: a guided step makes two, and a shallow pass its share of a whole one's operations.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import edgediff
from benchmarks import machine
from benchmarks.paired import difference
from benchmarks.reference import bundle as bundles
from benchmarks.reference.grammar import Scene, scenes
from benchmarks.reference.judge import judge
from benchmarks.reference.score import marks, rate
from edgediff import media, step_cache, tasks
from edgediff.export.emit.deep_cache import deep_cache
from edgediff.export.emit.flops import flops
from edgediff.export.main import export_onnx
from edgediff.export.networks import unet2d_condition

RESULTS = Path(__file__).parent / "results" / "step_cache.json"
TABLE = RESULTS.with_suffix(".md")
CACHED = (("ddim", 20, (2, 3, 5)), ("dpmpp_2m", 20, (2, 3)), ("ddim", 50, (3, 10)))
INTERVALS = ((0.0, 0.8), (0.0, 0.5), (0.2, 0.8), (0.2, 1.0), (0.5, 1.0))
_BATCH = 25


class Drawn(NamedTuple):
    """Which captions were drawn right, the final latents, and the work of one picture in whole passes."""

    right: list[bool]
    latents: Any
    passes: float


def main() -> None:
    """Measure every row and write the record and its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--captions", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bundle", type=Path, help="the exported teacher, if it is there already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    asked = scenes(2026, options.captions, "heldout-captions")
    with tempfile.TemporaryDirectory() as scratch:
        bundle = options.bundle or _teacher(Path(scratch))
        with edgediff.load(bundle, threads=options.threads) as pipe:
            record: dict[str, Any] = {"machine": machine.card(), "captions": options.captions, "rows": []}
            for row in chain(_cached(pipe, asked), _guided(pipe, asked)):
                record["rows"].append(row)
                options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
                options.out.with_suffix(".md").write_text(table(record), encoding="utf-8")
    print(options.out)


def _teacher(scratch: Path) -> Path:
    bundles.assemble(scratch / "model", teacher=True)
    export_onnx(str(scratch / "model"), str(scratch / "bundle"), dtype="fp16", step_cache=True)
    return scratch / "bundle"


def _cached(pipe: edgediff.Pipeline, asked: list[Scene]) -> Iterator[dict[str, Any]]:
    for sampler, steps, each in CACHED:
        options = {"sampler": sampler, "num_inference_steps": steps}
        whole = draw(pipe, asked, options)
        yield _row(f"{sampler}, {steps} steps", whole, whole)
        for every in each:
            cached = draw(pipe, asked, {**options, "step_cache": every})
            yield _row(f"{sampler}, {steps} steps, cache {every}", cached, whole)
            fewer = round(cached.passes / 2)  # guided: two rows a step
            as_many = draw(pipe, asked, {**options, "num_inference_steps": fewer})
            yield _row(f"{sampler}, {fewer} steps", as_many, whole)


def _guided(pipe: edgediff.Pipeline, asked: list[Scene]) -> Iterator[dict[str, Any]]:
    whole = draw(pipe, asked, {})
    alone = draw(pipe, asked, {"guidance_scale": 1.0})
    yield _row("defaults (ddim, 20 steps)", whole, whole)
    yield _row("without guidance", alone, whole)
    for interval in INTERVALS:
        drawn = draw(pipe, asked, {"guidance_interval": interval})
        yield _row(f"guided from {interval[0]:g} to {interval[1]:g}", drawn, whole)


def draw(pipe: edgediff.Pipeline, asked: list[Scene], options: dict[str, Any]) -> Drawn:
    """Draw all captions, 25 to a seed, counting what the network was given."""
    right, latents, rows = [], [], 0.0
    parts = pipe._parts
    run, shallow = parts.run, shallow_share(pipe.bundle)

    def counted(role: str, inputs: Any) -> Any:
        nonlocal rows
        rows += {"denoiser": 1.0, step_cache.ROLE: shallow}.get(role, 0.0) * len(next(iter(inputs.values())))
        return run(role, inputs)

    parts.run = counted  # type: ignore[method-assign]
    try:
        for first in range(0, len(asked), _BATCH):
            chosen = asked[first : first + _BATCH]
            call = tasks.checked(pipe.bundle, [each.caption for each in chosen], seed=first, **options)
            *_, last = pipe.walk(call)
            latents.append(last.x)
            pictures = media.to_bytes(pipe.decode(last.x, "np"))
            for scene, picture in zip(chosen, pictures, strict=True):
                right.append(all(all(values) for values in marks(scene, judge(picture)).values()))
    finally:
        del parts.run  # type: ignore[attr-defined]
    return Drawn(right, np.concatenate(latents), rows / len(asked))


def shallow_share(bundle: edgediff.Bundle) -> float:
    """Operations of a shallow pass over those of a whole one, by the recording, at the model's own size."""
    config = json.loads((bundle.path / "unet" / "config.json").read_text())
    whole, shallow = deep_cache(unet2d_condition.record(unet2d_condition.configure(config, "config.json")))
    side = bundle.defaults.size["height"] // bundle.latents.downscale["height"]
    length = 0 if bundle.text is None else bundle.text.length
    given = {"sample": (side, side), "encoder_hidden_states": (length,), step_cache.FEATURES: (side, side)}
    works = []
    for graph in (shallow, whole):
        named = {port.name for port in graph.inputs}
        works.append(float(flops(graph, {n: e for n, e in given.items() if n in named})["total"]))
    return works[0] / works[1]


def _row(name: str, drawn: Drawn, whole: Drawn) -> dict[str, Any]:
    row: dict[str, Any] = {
        "way": name, "passes": round(drawn.passes, 1), "accuracy": rate(sum(drawn.right), len(drawn.right)),
    }  # fmt: skip
    if drawn is not whole:
        error = np.square(drawn.latents.astype(np.float64) - whole.latents).mean()
        peak = float(whole.latents.max() - whole.latents.min())
        row |= {"difference": difference(whole.right, drawn.right)}
        row["latents_psnr_db"] = round(float(20 * np.log10(peak) - 10 * float(np.log10(error))), 1)
    print(time.strftime("%H:%M:%S"), row, flush=True)
    return row


def table(record: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| walk | work, passes | right | difference, points (95 %) | latents PSNR dB |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        told = row.get("difference")
        apart = "" if told is None else f"{told['points']:+.1f} ({told['low']:+.1f} to {told['high']:+.1f})"
        share = f"{100 * row['accuracy']['share']:.1f} %"
        lines.append(
            f"| {row['way']} | {row['passes']:g} | {share} | {apart} | {row.get('latents_psnr_db', '')} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
