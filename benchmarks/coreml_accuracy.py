"""The reference model as Core ML packages, judged. ``python -m benchmarks.coreml_accuracy``.

The embedded model's checkpoint is exported to ONNX in float32 and to Core ML in every form, as a user would;
a result that a check refuses is exported again with ``--force``, and the refusal recorded. All draw the same
held-out captions under the same seeds, the packages through our interpreter of ML programs, which rounds to
float16 as they ask; no device of Apple's takes part. The exact judge says which pictures show all that their
caption states. Differences from float32 are paired.

The interpreter is slow, so each form's row is kept as soon as it is measured, and rows that the record has
for the same captions are not measured again unless ``--only`` names them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.coreml_export import FLAGS as EXPORTS
from benchmarks.coreml_export import export, sizes
from benchmarks.paired import difference
from benchmarks.quantize_draw import BATCH, Asked, Drawn, compared, draw, workers
from benchmarks.quantize_export import weight_bytes
from benchmarks.reference.bundle import assemble
from benchmarks.reference.score import rate
from edgediff.export.main import export_onnx

RESULTS = Path(__file__).parent / "results" / "coreml_accuracy.json"
PARENT = "ONNX fp32"
FLAGS = EXPORTS | {
    # The bytes of the weights of palette-4, and a floor below the default one.
    "mixed, max-size=2.63": ("--quantize", "mixed", "--max-size", "2.63"),
    "mixed, min-psnr=35": ("--quantize", "mixed", "--min-psnr", "35"),
}
FORMS = (
    "fp16",
    "palette-8",
    "palette-6",
    "palette-4",
    "int8",
    "mixed",
    *sorted(FLAGS.keys() - EXPORTS.keys()),
)
STEPS, SPLIT = 4, "heldout-captions"


def main() -> None:
    """Export, draw, judge, and write the record row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=500, help=f"held-out captions, {BATCH} to a seed")
    parser.add_argument("--forms", nargs="+", choices=list(FLAGS), default=list(FORMS))
    parser.add_argument("--only", nargs="+", choices=list(FLAGS), default=[], help="measure these again")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scratch", type=Path, help="keep the bundles here, and use those that it has")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        scratch = options.scratch or Path(made)
        scratch.mkdir(parents=True, exist_ok=True)
        measure(options, scratch)
    print(options.out)


def measure(options: argparse.Namespace, scratch: Path) -> None:
    """Measure what the record lacks."""
    record = begun(options.out, options.captions)
    rows = record["rows"]
    wanted = options.only or [form for form in options.forms if form not in rows]
    model, parent = scratch / "model", scratch / "onnx-fp32"
    if not model.exists():
        assemble(model)
    if not parent.exists():
        export_onnx(str(model), str(parent), dtype="fp32")
    asked = Asked(options.captions, SPLIT, STEPS)
    with workers(options.workers) as pool:
        reference = draw(pool, parent, asked)
        accuracy = rate(sum(reference.right), len(reference.right))
        record["parent"] = {"accuracy": accuracy, "weight_bytes": weight_bytes(parent)}
        for form in wanted:
            rows[form] = row(pool, model, scratch / f"coreml-{form}", form, asked, reference)
            print(f"{form}: {rows[form]}", flush=True)
            options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def begun(out: Path, captions: int) -> dict[str, Any]:
    """The record so far; one of another number of captions is not continued."""
    record: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    if record.get("captions") != captions:
        record = {}
    record |= {"machine": machine.card(), "captions": captions, "split": SPLIT, "steps": STEPS}
    record.setdefault("rows", {})
    return record


def row(pool: Pool, model: Path, out: Path, form: str, asked: Asked, reference: Drawn) -> dict[str, Any]:
    """Export one form, unless it is there, draw with it and judge."""
    kept = out.with_suffix(".json")
    if not (out.exists() and kept.exists()):
        done, refused = export(model, out, FLAGS[form])
        told = {"seconds": done.seconds, "peak_rss_mb": done.peak_mb, "refused": refused}
        kept.write_text(json.dumps(told), encoding="utf-8")
    began = time.perf_counter()
    drawn = draw(pool, out, asked, runtime="mil")
    return {
        "export": json.loads(kept.read_text()),
        "flags": list(FLAGS[form]),
        **sizes(out),
        "receipt": receipt(out),
        "accuracy": rate(sum(drawn.right), len(drawn.right)),
        "difference": difference(reference.right, drawn.right),
        **compared(reference, drawn),
        "drawn_in_s": round(time.perf_counter() - began),
    }


def receipt(bundle: Path) -> dict[str, Any] | None:
    """What the bundle's own receipt says of the whole, and of each part its distance."""
    told = json.loads((bundle / "edgediff.json").read_text()).get("quality")
    if told is None:
        return None
    kept = {name: told[name] for name in ("latents_psnr_db", "pictures", "failed") if name in told}
    return kept | {"snr_db": {role: each["snr_db"] for role, each in told["components"].items()}}


if __name__ == "__main__":
    main()
