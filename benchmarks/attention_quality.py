"""What reduced attention costs a trained model of 1024 tokens. ``python -m benchmarks.attention_quality``.

The wide reference model (``benchmarks/reference/wide``) is exported unreduced, with each reduction, and
with its first level's self-attention left out altogether, which says how much there was to lose. Every bundle
draws the same held-out captions from the same starting noise; the exact judge says which pictures show all
that their caption states. The second part does the same with what a call may leave out of a long walk
(guidance outside an interval, network calls between cached ones), on the embedded model's teacher.
Differences are paired. Rows of ``--only`` are added to what the record holds already; ``--sheet`` draws
pictures side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks import machine
from benchmarks.attention_table import write as write_table
from benchmarks.contact_sheet import sheet
from benchmarks.paired import difference
from benchmarks.quantize_draw import BATCH, Asked, Drawn, _opened, _scenes, compared, workers
from benchmarks.reference import bundle as reference
from benchmarks.reference.judge import judge
from benchmarks.reference.score import marks, rate
from edgediff.export.main import export_onnx
from edgediff.media import to_bytes

HERE = Path(__file__).parent
WIDE = HERE / "reference" / "wide"
RESULTS, SHEET = HERE / "results" / "attention_quality.json", HERE / "results" / "attention_quality.png"
SPLIT = "heldout-captions"
WHOLE, WITHOUT = "unreduced", "no self-attention at level 1"
REDUCTIONS = (
    "tiles:2@1", "tiles:4@1", "shifted:2@1", "shifted:4@1",
    "pooled:2@1", "pooled:4@1", "strided:2@1", "strided:4@1",
)  # fmt: skip
PLAIN = "every step whole"
SAVINGS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "guidance in the first half": {"guidance_interval": (0.0, 0.5)},
    "guidance in the first 80 %": {"guidance_interval": (0.0, 0.8)},
    "guidance from 20 to 80 %": {"guidance_interval": (0.2, 0.8)},
    "step cache 2": {"step_cache": 2},
    "step cache 3": {"step_cache": 3},
}
FINEST = ("down_blocks.0.", "up_blocks.3.")  # modules of the wide denoiser at its first level


@dataclass(frozen=True, slots=True)
class Row:
    """A bundle and what its calls are given besides."""

    bundle: Path
    options: Mapping[str, Any] = field(default_factory=dict)


def main() -> None:
    """Export, draw, judge, and write the record and its tables."""
    options = parse()
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as made, workers(options.workers) as pool:
        scratch = options.scratch or Path(made)
        scratch.mkdir(parents=True, exist_ok=True)
        if "attention" in options.parts:
            rows = attention(options.model, scratch, chosen((WHOLE, *REDUCTIONS, WITHOUT), options.only))
            part(record, "attention", pool, rows, Asked(options.captions, SPLIT, options.steps), options.out)
            if options.sheet is not None:
                draw_sheet(rows, options.steps, options.sheet)
        if "savings" in options.parts:
            teacher = exported(reference_teacher(scratch), scratch / "teacher", step_cache=True)
            rows = {name: Row(teacher, SAVINGS[name]) for name in chosen(tuple(SAVINGS), options.only)}
            part(record, "savings", pool, rows, Asked(options.captions, SPLIT, options.long), options.out)
    write_table(options.out)


def chosen(names: tuple[str, ...], only: list[str] | None) -> list[str]:
    """The first name, which all others are compared with, and those of the others that are wanted."""
    return [name for name in names if only is None or name in only or name == names[0]]


def attention(model: Path, scratch: Path, names: list[str]) -> dict[str, Row]:
    """Bundles of the wide model, by what was done to its attention."""
    found = {}
    for name in names:
        place = scratch / name.replace(" ", "-").replace(":", "-").replace("@", "-").replace(",", "-")
        # No receipt: judging is done here.
        more = {} if name in (WHOLE, WITHOUT) else {"attention": name, "receipt": False}
        source = without_attention(model, scratch / "without") if name == WITHOUT else model
        found[name] = Row(exported(source, place, **more))
    return found


def exported(model: Path, place: Path, **options: Any) -> Path:
    """Export, unless the scratch folder has it already."""
    if not place.exists():
        export_onnx(str(model), str(place), verify=False, **options)
    return place


def without_attention(model: Path, place: Path) -> Path:
    """A copy of a checkpoint in which self-attention of the first level adds nothing."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(model, place)
    path = place / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    silenced = [name for name in tensors if name.startswith(FINEST) and ".attn1.to_out.0." in name]
    if not silenced:
        raise SystemExit(f"{path}: no self-attention at the first level; is this the wide model?")
    save_file(tensors | {name: np.zeros_like(tensors[name]) for name in silenced}, path)
    return place


def reference_teacher(scratch: Path) -> Path:
    """The embedded model's teacher as a folder to export."""
    place = scratch / "teacher-model"
    if not place.exists():
        reference.assemble(place, teacher=True)
    return place


def part(
    record: dict[str, Any], name: str, pool: Pool, rows: Mapping[str, Row], asked: Asked, out: Path
) -> None:
    """Judge every row against the first, and keep what is known after each."""
    setup = {"captions": asked.captions, "split": asked.split, "steps": asked.steps}
    if {key: record.get(name, {}).get(key) for key in setup} != setup:
        record[name] = {**setup, "rows": {}}
    record["machine"] = machine.card()
    parent: Drawn | None = None
    for label, row in rows.items():
        began = time.perf_counter()
        drawn = draw(pool, row, asked)
        told: dict[str, Any] = {"accuracy": rate(sum(drawn.right), len(drawn.right))}
        if parent is None:
            parent = drawn
        else:
            told |= {"difference": difference(parent.right, drawn.right), **compared(parent, drawn)}
        record[name]["rows"][label] = told
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{label}: {told} ({time.perf_counter() - began:.0f} s)", flush=True)


def draw(pool: Pool, row: Row, asked: Asked) -> Drawn:
    """Draw and judge the scenes of a row."""
    jobs = [(str(row.bundle), dict(row.options), asked, at) for at in range(0, asked.captions, BATCH)]
    done = pool.starmap(batch, jobs, chunksize=1)
    right = tuple(mark for each, _, _ in done for mark in each)
    return Drawn(right, np.concatenate([d[1] for d in done]), np.concatenate([d[2] for d in done]))


def batch(bundle: str, options: dict[str, Any], asked: Asked, start: int) -> tuple[list[bool], Any, Any]:
    """One batch of captions under one seed: verdicts, final latents, pictures."""
    pipe = _opened((bundle, None, "auto"))
    wanted = _scenes(asked)[start : start + BATCH]
    prompts = [scene.caption for scene in wanted]
    made = pipe(prompts, seed=start, num_inference_steps=asked.steps, output_type="latent", **options).images
    pictures = to_bytes(pipe.decode(made, "np"))
    given = [marks(scene, judge(picture)) for scene, picture in zip(wanted, pictures, strict=True)]
    return [all(all(values) for values in each.values()) for each in given], made, pictures


def draw_sheet(rows: Mapping[str, Row], steps: int, path: Path, captions: int = 6) -> None:
    """The first captions, a row each, as every bundle draws them."""
    wanted = _scenes(Asked(captions, SPLIT, steps))
    columns = []
    for row in rows.values():
        pipe = _opened((str(row.bundle), None, "auto"))
        prompts = [scene.caption for scene in wanted]
        columns.append(pipe(prompts, seed=0, num_inference_steps=steps, **row.options).images)
    made = sheet(tuple(scene.caption for scene in wanted), list(rows), list(zip(*columns, strict=True)))
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path, optimize=True)
    print(path)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-m", "--model", type=Path, default=WIDE, help="the wide checkpoint")
    parser.add_argument("--captions", type=int, default=500, help="held-out captions, 25 to a seed")
    parser.add_argument("--steps", type=int, default=10, help="of the wide model")
    parser.add_argument("--long", type=int, default=50, help="steps of the walks that leave something out")
    parser.add_argument(
        "--parts", nargs="+", choices=["attention", "savings"], default=["attention", "savings"]
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", help="measure these rows, and the first")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scratch", type=Path, help="keep the bundles here, and use those that lie here")
    parser.add_argument("--sheet", type=Path, nargs="?", const=SHEET, help="draw a contact sheet here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
