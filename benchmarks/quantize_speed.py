"""A full-size U-Net in int8, timed against what else there is. ``python -m benchmarks.quantize_speed``.

Stable Diffusion 1.5's U-Net at 512x512 with random weights: what is measured is time and memory, nothing is
said about quality. On ONNX Runtime's CPU provider our fp32 form, ONNX Runtime's own quantizer (static, its
defaults) and our int8 take passes in turns; on the OpenVINO plug-in provider our fp32 bundle in bf16 and
our int8. Each graph is also loaded alone, for its load time and peak memory. The exports are timed, with the
largest resident set before the receipt begins and in all. A checkpoint and bundles that are not given are
made (tens of GB of disk, 20 minutes).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import card
from benchmarks.quantize_export import export, weight_bytes
from benchmarks.quantize_passes import feeds, measured
from benchmarks.quantize_turns import spread
from edgediff.bundle import Bundle
from edgediff.parts import Parts

RESULTS = Path(__file__).parent / "results" / "quantize_speed.json"
ROLE, STOCK_SIZE = "denoiser", 32
Row = dict[str, Any]


def main() -> None:
    """Make what is missing, measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a checkpoint; one with random weights unless given")
    parser.add_argument("--parent", type=Path, help="its float32 bundle")
    parser.add_argument("--stock", type=Path, help="a bundle whose denoiser ONNX Runtime quantized")
    parser.add_argument("--ours", type=Path, help="our int8 bundle; its export is then not timed")
    parser.add_argument("--without-receipt", action="store_true", help="export without it")
    parser.add_argument("--size", type=int, default=64, help="latents along each side")
    parser.add_argument("--tokens", type=int, default=77)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", choices=["cpu", "openvino"], help="one of the providers")
    parser.add_argument("--scratch", type=Path, help="where what is made goes and stays")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        scratch = options.scratch or Path(made)
        scratch.mkdir(parents=True, exist_ok=True)
        record = _record(options, scratch)
    text = json.dumps(record, indent=1)
    print(text)
    options.out.write_text(text + "\n", encoding="utf-8")


def _record(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    old = json.loads(options.out.read_text()) if options.out.exists() else {}
    paths, costs = _bundles(options, scratch)
    asked = {"role": ROLE, "size": options.size, "tokens": options.tokens, "threads": options.threads}
    extents = {
        "batch_size": 1,
        "height": options.size,
        "width": options.size,
        "sequence_length": options.tokens,
    }
    groups = {name: rows for name, rows in _groups(paths, extents).items() if options.only in (None, name)}
    timed = {name: _group(rows, asked, options.rounds) for name, rows in groups.items()}
    return {
        "machine": card(),
        **asked,
        "rounds": options.rounds,
        "exports": old.get("exports", {}) | costs,
        "weight_bytes": {name: weight_bytes(path)[ROLE] for name, path in paths.items()},
        "providers": old.get("providers", {}) | timed,
    }


def _bundles(options: argparse.Namespace, scratch: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Every bundle that is compared, made where it is not given, and what making ours took."""
    model, costs = options.model, {}
    if model is None and (options.parent is None or options.ours is None):
        from benchmarks.full_size import make

        model = make("sd15", scratch / "model", "float16")
    parent, ours = options.parent, options.ours
    if parent is None:
        parent = scratch / "fp32"
        costs["fp32"] = export(model, parent, ())
    if ours is None:
        ours = scratch / "int8"
        costs["int8"] = export(model, ours, ("--quantize", "int8", "--profiles", "portable,ort-cpu,openvino"))
    stock = options.stock
    if stock is None:
        stock = scratch / "stock"
        costs["stock int8"] = _stock(parent, stock, options)
    return {"fp32": parent, "stock int8": stock, "int8": ours}, costs


def _stock(parent: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """ONNX Runtime's quantizer, calibrated at a smaller size: every activation is held in memory."""
    from benchmarks.quantize_stock import quantize

    parts = Parts(Bundle.open(parent), "cpu", verify=False)
    shown = feeds(parts.graph(ROLE).info, {"size": STOCK_SIZE, "tokens": options.tokens})
    parts.close()
    began = time.perf_counter()
    quantize(parent, out, {ROLE: [shown]})
    return {"seconds": round(time.perf_counter() - began, 1), "calibrated_at": STOCK_SIZE}


def _groups(paths: dict[str, Path], extents: dict[str, int]) -> dict[str, list[Row]]:
    """What is timed in turns with what: the rows of one provider, the reference first.

    OpenVINO is given the extents, as it fuses little where they are free.
    """
    cpu: list[Row] = [{"name": name, "bundle": str(path), "device": "cpu"} for name, path in paths.items()]
    cpu[1]["options"] = {"scan": False}  # the stock graph has more initializers than a bundle may
    groups = {"cpu": cpu}
    if importlib.util.find_spec("onnxruntime_ep_openvino"):
        bf16 = {"name": "bf16", "bundle": str(paths["fp32"])}
        int8 = {"name": "int8", "bundle": str(paths["int8"])}
        chosen = {"device": "openvino", "options": {"precision": "bf16", "extents": extents}}
        groups["openvino"] = [bf16 | chosen, int8 | chosen]
    return groups


def _group(rows: list[Row], asked: dict[str, Any], rounds: int) -> dict[str, Any]:
    alone = {row["name"]: measured({**asked, "rounds": 1, "rows": [row]}) for row in rows}
    found: dict[str, Any] = measured({**asked, "rounds": rounds, "rows": rows})["rows"]
    for name, row in found.items():
        row["load_s"] = alone[name]["rows"][name]["load_s"]
        row["peak_rss_mb"] = alone[name]["peak_rss_mb"]
    if "stock int8" in found:
        pairs = zip(found["int8"]["all_seconds"], found["stock int8"]["all_seconds"], strict=True)
        found["int8"]["ratio_to_stock"] = spread([ours / theirs for ours, theirs in pairs])
    return found


if __name__ == "__main__":
    main()
