"""What text keys and values made once per prompt save. ``python -m benchmarks.split_text_speed``.

Two bundles of one checkpoint, exported with and without ``--split-text``, run their denoisers in turns on one
device; a ratio is that of two passes of one round. The counts (weights and operations that leave the loop)
come from the recordings of the published configurations at their own sizes, and need no bundles.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.full_size import MODELS
from benchmarks.quantize_passes import measured
from edgediff.export.emit.flops import flops
from edgediff.export.emit.split_text import TEXT, split_text
from edgediff.export.networks import unet2d_condition

RESULTS = Path(__file__).parent / "results" / "split_text.json"
TOKENS = 77


def main() -> None:
    """Count, time what is given, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundles", type=Path, nargs=2, metavar=("WHOLE", "SPLIT"))
    parser.add_argument("--device", default="openvino")
    parser.add_argument("--precision", help="bf16 or fp32, where the device gives the choice")
    parser.add_argument("--size", type=int, default=64, help="side of the latents")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    record |= {"machine": machine.card(), "counts": {name: counted(name) for name in MODELS}}
    if options.bundles is not None:
        row = timed(options)
        record.setdefault("passes", {})[" ".join(filter(None, (options.device, options.precision)))] = row
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


def counted(name: str) -> dict[str, Any]:
    """Parameters and operations of a pass that the projections are, at the model's own size."""
    config = MODELS[name]["unet"]
    net = unet2d_condition.configure(config, name)
    whole = unet2d_condition.record(net)
    first, _ = split_text(whole)
    side = int(config["sample_size"])
    weights = [sum(p.size for p in graph.parameters) for graph in (first, whole)]
    work = [
        flops(first, {TEXT: (TOKENS,)})["total"],
        flops(whole, {"sample": (side, side), TEXT: (TOKENS,)})["total"],
    ]
    return {
        "layers": len(first.outputs) // 2,
        "parameters": weights[0],
        "share_of_parameters": round(weights[0] / weights[1], 4),
        "gflop": round(work[0] / 1e9, 2),
        "share_of_gflop": round(work[0] / work[1], 4),
        "bytes_per_prompt_fp32": 4 * TOKENS * sum(port.value.channels for port in first.outputs),
    }


def timed(options: argparse.Namespace) -> dict[str, Any]:
    """Denoiser passes of both bundles in turns, in a process of their own."""
    extents = {"batch_size": 1, "height": options.size, "width": options.size, "sequence_length": TOKENS}
    more: dict[str, Any] = {} if options.precision is None else {"precision": options.precision}
    if options.device == "openvino":
        more["extents"] = extents
    names = ("whole", "split")
    rows = [
        {"name": name, "bundle": str(path), "device": options.device, "options": more}
        for name, path in zip(names, options.bundles, strict=True)
    ]
    asked = {
        "role": "denoiser",
        "size": options.size,
        "tokens": TOKENS,
        "rounds": options.rounds,
        "threads": options.threads,
        "rows": rows,
    }
    return {"size": options.size, **measured(asked)}


if __name__ == "__main__":
    main()
