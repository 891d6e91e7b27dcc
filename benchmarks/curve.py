"""Score against pictures seen: ``python -m benchmarks.curve SAMPLES`` adds the teacher's measured scores to
the curve.

Run it after ``benchmarks.accuracy --only teacher`` on a checkpoint whose denoiser has seen SAMPLES pictures;
the points are kept in ``benchmarks/reference/curve.json`` and drawn as ``curve.png`` (needs the extra
``bench``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.reference import card

CURVE = Path(__file__).parent / "reference" / "curve.json"


def main() -> None:
    """Append one point and draw the picture again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("samples", type=int, help="pictures that the denoiser has seen")
    samples = parser.parse_args().samples
    results = json.loads((CURVE.parent / "results.json").read_text())
    scored = results["teacher, 20 steps"]["heldout-captions"]["scores"]
    setup = f"{results['captions']} held-out captions, exported bundle"
    points = json.loads(CURVE.read_text()) if CURVE.exists() else []
    points = [p for p in points if p["samples"] != samples]
    shares = {name: score["share"] for name, score in scored.items()}
    points.append({"samples": samples, "scores": shares, "setup": setup})
    CURVE.write_text(json.dumps(sorted(points, key=lambda p: p["samples"]), indent=1) + "\n")
    card.write()


if __name__ == "__main__":
    main()
