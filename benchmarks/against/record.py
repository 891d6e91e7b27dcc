"""Figures on disk: each cell is written when it is taken, so that a run can go on where it ended."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import card


class Record:
    """``rows`` by key, each with ``cells`` by name; a cell that is taken again replaces the older one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.data: dict[str, Any] = {"rows": {}}
        if file.exists():
            self.data = json.loads(file.read_text(encoding="utf-8"))

    def has(self, row: str, cell: str) -> bool:
        """Whether there is a figure already (a failure is none)."""
        found = self.cell(row, cell)
        return found is not None and "error" not in found

    def cell(self, row: str, cell: str) -> dict[str, Any] | None:
        """Return a cell, or None."""
        found: dict[str, Any] | None = self.data["rows"].get(row, {}).get("cells", {}).get(cell)
        return found

    def add(self, row: str, about: dict[str, Any], cell: str, figures: dict[str, Any]) -> None:
        """Keep a cell with the date, beside what the row is, and write the file whole."""
        kept = self.data["rows"].setdefault(row, {})
        kept.update(about)
        when = time.strftime("%Y-%m-%dT%H:%M:%S")
        kept.setdefault("cells", {})[cell] = {**_rounded(figures), "date": when}
        self.data["machine"] = card()
        partial = self._file.with_suffix(".partial")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._file)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value
