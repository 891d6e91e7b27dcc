"""Write the numbers of MODEL_CARD.md from results.json, and the curve's picture from curve.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MARKS = ("<!-- scores: written by card.py -->", "<!-- end of scores -->")
COLUMNS = ("background", "count", "colour", "shape", "size", "position", "relation", "whole")


def write(folder: Path = HERE) -> None:
    """Replace what lies between the card's two marks."""
    card = folder / "MODEL_CARD.md"
    text = card.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    results = json.loads((folder / "results.json").read_text())
    log_path = folder / "training_log.json"
    log = json.loads(log_path.read_text()) if log_path.exists() else []
    body = "\n\n".join([*tables(results), training(log)])
    card.write_text(f"{before}{MARKS[0]}\n\n{body}\n\n{MARKS[1]}{after}", encoding="utf-8")
    if (folder / "curve.json").exists():
        curve(folder)


def tables(results: dict[str, Any]) -> list[str]:
    """One table of percentages for each split."""
    rows = {
        name: value
        for name, value in results.items()
        if isinstance(value, dict) and "heldout-captions" in value
    }
    made = []
    for split, title in (("heldout-captions", "Held-out captions"), ("heldout-pairs", "Held-out pairs")):
        head = ["", *COLUMNS, "one object", "two", "three", "residual"]
        lines = [f"### {title} ({results['captions']})", "", _row(head), _row(["---"] * len(head))]
        for name, value in rows.items():
            scores = value[split]["scores"]
            cells = [_percent(scores.get(column)) for column in COLUMNS]
            cells[-1] = _interval(scores["whole"])
            by_count = [_percent(scores.get(f"whole, {n}")) for n in ("1 object", "2 objects", "3 objects")]
            label = "ceiling (autoencoder alone)" if name == "ceiling" else name
            lines.append(_row([label, *cells, *by_count, f"{value[split]['residual']:.1f}"]))
        made.append("\n".join(lines))
    return made


def training(log: list[dict[str, Any]]) -> str:
    """What every stage saw and how long it took."""
    lines = ["### Training", "", _row(["stage", "samples", "seconds", "machine"]), _row(["---"] * 4)]
    for entry in log:
        counts = [f"{entry[name]:,.0f}" for name in ("samples", "seconds")]
        lines.append(_row([entry["stage"], *counts, entry["machine"]["processor"]]))
    return "\n".join(lines)


def curve(folder: Path) -> None:
    """Draw score against samples seen."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    points = json.loads((folder / "curve.json").read_text())
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name in COLUMNS:
        known = [(p["samples"], 100 * p["scores"][name]) for p in points if name in p["scores"]]
        if known:
            axes.plot(*zip(*known, strict=True), marker=".", label=name)
    axes.set(xlabel="pictures seen by the denoiser", ylabel="right, %", ylim=(0, 101))
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(folder / "curve.png", dpi=110)
    plt.close(figure)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(score: dict[str, float] | None) -> str:
    return "" if score is None else f"{100 * score['share']:.1f}"


def _interval(score: dict[str, float]) -> str:
    return f"**{100 * score['share']:.1f}** ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


if __name__ == "__main__":
    write()
