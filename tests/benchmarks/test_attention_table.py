"""The tables that the judged losses of reduced attention are shown in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import attention_table
from benchmarks.paired import difference
from benchmarks.reference.score import rate

RIGHT, OTHER = [True] * 8 + [False] * 2, [True] * 6 + [False] * 3 + [True]
RECORD = {
    "attention": {
        "captions": 10,
        "steps": 4,
        "rows": {
            "unreduced": {"accuracy": rate(sum(RIGHT), 10)},
            "tiles:2@1": {
                "accuracy": rate(sum(OTHER), 10),
                "difference": difference(RIGHT, OTHER),
                "latents_psnr_db": 31.25,
                "pictures_psnr_db": 28.04,
            },
        },
    }
}


def test_rows_say_what_the_record_says() -> None:
    lines = attention_table.tables(RECORD).splitlines()
    assert lines[0] == "### Reduced attention, the wide reference model"
    assert lines[-2].startswith("| unreduced | 80.0 % (")
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells[0] == "tiles:2@1"
    assert cells[1].startswith("70.0 %")
    assert cells[2].startswith("-10.0 (")
    assert cells[3:] == ["1 / 2", "31.2", "28.0"]


def test_a_page_is_changed_between_its_marks_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, record = tmp_path / "page.md", tmp_path / "record.json"
    record.write_text(json.dumps(RECORD))
    first, last = attention_table.MARKS
    page.write_text(f"before\n{first}\nold\n{last}\nafter\n")
    monkeypatch.setattr(attention_table, "PAGES", (page, tmp_path / "absent.md"))
    attention_table.write(record)
    attention_table.write(record)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("tiles:2@1") == 1
    assert (tmp_path / "record.md").read_text().count("tiles:2@1") == 1
