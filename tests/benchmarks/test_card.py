"""The card shows what the log and the results say, between its marks and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.reference import card


def test_scores_and_training_are_written_between_the_marks(tmp_path: Path) -> None:
    share = {"share": 0.5, "low": 0.25, "high": 0.75, "of": 8}
    scored = {"captions": 8, "residual": 1.25, "scores": {"colour": share, "whole": share}}
    splits = {"heldout-captions": scored, "heldout-pairs": scored}
    results = {"captions": 8, "machine": {}, "ceiling": splits, "student, 4 steps": splits}
    (tmp_path / "results.json").write_text(json.dumps(results))
    line = {"stage": "distill", "samples": 64000, "seconds": 1200, "machine": {"processor": "a processor"}}
    (tmp_path / "training_log.json").write_text(json.dumps([line]))
    file = tmp_path / "MODEL_CARD.md"
    file.write_text(f"before\n{card.MARKS[0]}\nold\n{card.MARKS[1]}\nafter\n", encoding="utf-8")
    for _ in range(2):
        card.write(tmp_path)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.count("| student, 4 steps |") == 2
    assert "**50.0** (25.0 to 75.0)" in text
    assert "| distill | 64,000 | 1,200 | a processor |" in text
