"""The reference model in all schemes, judged. ``python -m benchmarks.quantize_quality``.

The embedded model's checkpoint is exported in every scheme, as a user would (a result that a check refuses is
exported again with ``--force``, and the refusal recorded), and once quantized by ONNX Runtime's own tool.
Every bundle draws the same held-out captions under the same seeds; the exact judge says which pictures show
all that their caption states. Differences from fp32 are paired. Weights are counted for one form, the one
that ONNX Runtime's CPU provider gets. Rows of ``--only`` are added to what the record holds already.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.paired import difference
from benchmarks.quantize_draw import Asked, Drawn, compared, draw, workers
from benchmarks.quantize_export import export, weight_bytes
from benchmarks.quantize_turns import alone, in_turns
from benchmarks.reference.bundle import assemble
from benchmarks.reference.grammar import scenes
from benchmarks.reference.score import rate
from edgediff.bundle import Bundle

RESULTS = Path(__file__).parent / "results" / "quantize_quality.json"
PARENT, STOCK = "fp32", "stock int8"
SCHEMES: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("--quantize", "fp16"),
    "int8": ("--quantize", "int8"),
    "int8-weights": ("--quantize", "int8-weights"),
    "int4-weights": ("--quantize", "int4-weights"),
}
STAGES = ("export", "judge", "time")
STEPS = 4
SPLIT = "heldout-captions"
CALIBRATED_ON = 48  # captions of the training split that the stock quantizer is shown


def main() -> None:
    """Export, draw, judge, time, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=2000, help="held-out captions, 25 to a seed")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="measure these rows, and fp32")
    flags = "a row of mixed precision for each, such as min-psnr=30 or max-size=2.5"
    parser.add_argument("--mixed", nargs="*", default=[], metavar="FLAG=VALUE", help=flags)
    parser.add_argument("--rounds", type=int, default=40, help="pictures that each bundle is timed on")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES,
                        help="do these alone, on the bundles that --scratch keeps")  # fmt: skip
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scratch", type=Path, help="keep the bundles here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = _rows(options)
    with tempfile.TemporaryDirectory() as made:
        scratch = options.scratch or Path(made)
        scratch.mkdir(parents=True, exist_ok=True)
        record = _record(options, rows, scratch)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(options.out)


def _rows(options: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    mixed = {f"mixed, {each}": ("--quantize", "mixed", *_flag(each)) for each in options.mixed}
    every = {**SCHEMES, **mixed, STOCK: ()}
    wanted = {PARENT, *mixed, *(options.only or every)}
    unknown = wanted - every.keys()
    if unknown:
        raise SystemExit(f"no such row: {', '.join(unknown)}; there are {', '.join(every)}")
    return {name: flags for name, flags in every.items() if name in wanted}


def _flag(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return f"--{name}", value


def _record(options: argparse.Namespace, rows: dict[str, tuple[str, ...]], scratch: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    if record.get("captions") != options.captions:
        record = {}
    record |= {"machine": machine.card(), "captions": options.captions, "split": SPLIT,
               "steps": STEPS, "threads_when_timed": options.workers}  # fmt: skip
    found = record.setdefault("rows", {})
    bundles = {name: scratch / name.replace(", ", "-").replace(" ", "-").replace("=", "-") for name in rows}
    if "export" in options.stages:
        _export(rows, bundles, scratch / "model", found)
    if "judge" in options.stages:
        _judge(bundles, options, found)
    if "time" in options.stages:
        timed = in_turns(bundles, options.rounds, STEPS, options.workers)
        for name, path in bundles.items():
            found[name] |= timed[name] | alone(path, STEPS, options.workers)
    return record


def _judge(bundles: dict[str, Path], options: argparse.Namespace, found: dict[str, Any]) -> None:
    asked = Asked(options.captions, SPLIT, STEPS)
    with workers(options.workers) as pool:
        parent = draw(pool, bundles[PARENT], asked)
        for name, path in bundles.items():
            began = time.perf_counter()
            found[name] |= _judged(parent, parent if name == PARENT else draw(pool, path, asked))
            found[name]["forms"] = {
                form: _judged(parent, draw(pool, path, asked, form)) for form in _others(path, name)
            }
            print(f"{name}: {found[name]} ({time.perf_counter() - began:.0f} s)", flush=True)


def _others(bundle: Path, row: str) -> list[str]:
    """The forms of an int8 bundle that a CPU of this kind does not get: they compute with other integers."""
    if row != "int8":
        return []
    opened = Bundle.open(bundle)
    given = opened.graph("denoiser", None, "cpu").profile
    return [spec.profile for spec in opened.components["denoiser"] if spec.profile != given]


def _export(
    rows: dict[str, tuple[str, ...]], bundles: dict[str, Path], model: Path, found: dict[str, Any]
) -> None:
    shutil.rmtree(model, ignore_errors=True)
    assemble(model)
    for name, path in bundles.items():
        if name == STOCK:
            row = {"export": _stock(bundles[PARENT], path)}
        else:
            row = {"export": export(model, path, rows[name]), "flags": list(rows[name])}
        sizes, whole = weight_bytes(path), sum(weight_bytes(bundles[PARENT]).values())
        row |= {"weight_bytes": sizes, "share_of_fp32": round(sum(sizes.values()) / whole, 4)}
        found[name] = row | {"receipt": _receipt(path)}
        print(f"{name}: {row}", flush=True)


def _receipt(bundle: Path) -> dict[str, Any] | None:
    """What the bundle's own receipt says, in a few numbers."""
    told = json.loads((bundle / "edgediff.json").read_text()).get("quality")
    if told is None:
        return None
    kept = {name: told[name] for name in ("latents_psnr_db", "pictures", "taken", "failed") if name in told}
    return kept | {"snr_db": {role: each["snr_db"] for role, each in told["components"].items()}}


def _stock(parent: Path, out: Path) -> dict[str, Any]:
    from benchmarks.quantize_stock import quantize, trajectory

    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    captions = [scene.caption for scene in scenes(7, CALIBRATED_ON, "train")]
    # ONNX Runtime's documentation: dynamic for transformers, static for convolutional networks.
    quantize(parent, out, {**trajectory(Bundle.open(parent), captions), "text_encoder": None})
    return {"seconds": round(time.perf_counter() - began, 2), "peak_rss_mb": None, "refused": None}


def _judged(parent: Drawn, other: Drawn) -> dict[str, Any]:
    row = {"accuracy": rate(sum(other.right), len(other.right))}
    if other is parent:
        return row
    return row | {"difference": difference(parent.right, other.right)} | compared(parent, other)


if __name__ == "__main__":
    main()
