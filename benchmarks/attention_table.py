"""The tables of ``attention_quality``, between two marks of a page.

``python -m benchmarks.attention_table`` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "attention_quality.json"
PAGES = (HERE.parent / "docs" / "attention.md",)
MARKS = (
    "<!-- attention quality: written by benchmarks/attention_table.py -->",
    "<!-- end of attention quality -->",
)
TITLES = {
    "attention": "Reduced attention, the wide reference model",
    "savings": "What a call leaves out, the embedded model's teacher",
}


def write(results: Path = RESULTS) -> None:
    """Write the tables beside the record, and into every page that has the marks."""
    text = tables(json.loads(results.read_text(encoding="utf-8")))
    results.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    for page in PAGES:
        content = page.read_text(encoding="utf-8") if page.exists() else ""
        if all(mark in content for mark in MARKS):
            before, rest = content.split(MARKS[0])
            after = rest.split(MARKS[1])[1]
            page.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8")


def tables(record: dict[str, Any]) -> str:
    """One table for each part that the record has."""
    return "\n\n".join(_table(TITLES[name], record[name]) for name in TITLES if name in record)


def _table(title: str, part: dict[str, Any]) -> str:
    head = [
        "",
        "right",
        "against the first row, points",
        "only it / only the first",
        "latents, dB",
        "pictures, dB",
    ]
    lines = [
        f"### {title}",
        "",
        f"{part['captions']} held-out captions in {part['steps']} steps, the same starting noise in every "
        "row; 95 % intervals.",
        "",
        _row(head),
        _row(["---"] * len(head)),
    ]
    return "\n".join([*lines, *(_row([name, *_cells(row)]) for name, row in part["rows"].items())])


def _cells(row: dict[str, Any]) -> list[str]:
    share = row["accuracy"]
    right = f"{100 * share['share']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f})"
    if "difference" not in row:
        return [right, "", "", "", ""]
    gap = row["difference"]
    return [
        right,
        f"{gap['points']:+.1f} ({gap['low']:+.1f} to {gap['high']:+.1f})",
        f"{gap['won']} / {gap['lost']}",
        f"{row['latents_psnr_db']:.1f}",
        f"{row['pictures_psnr_db']:.1f}",
    ]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    write()
