"""The tables of docs/peers.md, from the stored figures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
BEGIN, END = "<!-- figures: written by python -m benchmarks.peers --table -->", "<!-- end of figures -->"
Rows = dict[str, dict[str, Any]]


def write(results: Path) -> None:
    """Replace what lies between the marks of docs/peers.md."""
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    figures = tables(json.loads(results.read_text(encoding="utf-8")))
    PAGE.write_text(f"{head}{BEGIN}\n{figures}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def tables(record: dict[str, Any]) -> str:
    """Return all tables of a record, and what the aims ask beside what was found."""
    rows: Rows = record["rows"]
    whole = {key: row for key, row in rows.items() if not row["tiny"]}
    tiny = {key: row for key, row in rows.items() if row["tiny"]}
    parts = [_machine(record), "### Speed, full decoder", _speed(whole)]
    if tiny:
        parts += ["### Speed, tiny decoder", _speed(tiny)]
    parts += [
        "### Start-up, memory, size",
        _cost(rows),
        "### Fidelity",
        _fidelity(rows),
        "### Aims",
        aims(rows),
    ]
    failed = [
        f"* {row['label']}, {name}: {cell['error']}"
        for row in rows.values()
        for name, cell in row["cells"].items()
        if "error" in cell
    ]
    return "\n\n".join([*parts, *(["### Not measured", "\n".join(failed)] if failed else [])])


def _machine(record: dict[str, Any]) -> str:
    card = record.get("machine", {})
    days = sorted({c["date"][:10] for row in record["rows"].values() for c in row["cells"].values()})
    span = "" if not days else days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{card.get('processor', 'unknown processor')}, {card.get('cores', '?')} cores; {span}."


def _speed(rows: Rows) -> str:
    head = ("", "a pass", "ratio", "4 steps", "ratio", "1 step", "ratio", "20 steps, guided")
    return _table(head, [
        (row["label"], *_timed(rows, key, "pass"), *_timed(rows, key, "picture_4"),
         *_timed(rows, key, "picture_1"), _seconds(row, "picture_20"))
        for key, row in rows.items()
    ])  # fmt: skip


def _cost(rows: Rows) -> str:
    head = ("", "cold, caches empty", "cold, caches full", "peak memory, empty", "peak memory, full",
            "packages", "model")  # fmt: skip
    listed = []
    for row in rows.values():
        size = _cell(row, "size") or {}
        listed.append((
            _name(row), _seconds(row, "cold_empty"), _seconds(row, "cold_full"),
            _peak(row, "cold_empty"), _peak(row, "cold_full"),
            f"{size['install_mb']:.0f} MB" if size else "", f"{size['model_mb']:.0f} MB" if size else "",
        ))  # fmt: skip
    return _table(head, listed)


def _fidelity(rows: Rows) -> str:
    listed = []
    for row in rows.values():
        cell = _cell(row, "fidelity")
        if cell is not None:
            shown = [cell.get("latents_psnr_db"), cell.get("picture_psnr_db")]
            listed.append((_name(row), *("" if x is None else f"{x:.1f} dB" for x in shown)))
    return _table(("4 steps, against diffusers fp32", "latents, PSNR", "picture, PSNR"), listed)


def ratio(rows: Rows, key: str, cell: str) -> float | None:
    """Return the median of a cell's paired ratios to the row it was timed beside; 1 for that row itself."""
    found = _cell(rows.get(key, {}), cell)
    if found is not None:
        return float(statistics.median(found["ratios"]))
    return 1.0 if _beside(rows, key, cell) is not None else None


def seconds(rows: Rows, key: str, cell: str) -> float | None:
    """Return the median seconds of a cell; of a row that others were timed beside, of all those turns."""
    found = _cell(rows.get(key, {}), cell)
    return _beside(rows, key, cell) if found is None else float(statistics.median(found["seconds"]))


def aims(rows: Rows) -> str:
    """Each aim, what was found, and whether it is met; a figure that is missing is said to be."""
    full = [k for k, r in rows.items() if r["peer"] and not r["tiny"]]
    tiny = [k for k, r in rows.items() if r["peer"] and r["tiny"]]

    def direct(key: str, cell: str) -> Callable[[], float | None]:
        return lambda: ratio(rows, key, cell)

    def fastest(key: str, peers: Sequence[str], cell: str) -> Callable[[], float | None]:
        def find() -> float | None:
            mine = ratio(rows, key, cell)
            theirs = [r for peer in peers if (r := ratio(rows, peer, cell)) is not None]
            return mine / min(theirs) if mine is not None and theirs else None

        return find

    def cold(mine: str, theirs: str, cell: str) -> Callable[[], float | None]:
        def find() -> float | None:
            a, b = (seconds(rows, key, cell) for key in (mine, theirs))
            return a / b if a is not None and b is not None else None

        return find

    asked = [
        ("pass, int8 and reduced attention, of GenAI bf16", 0.5, direct("ours-reduced", "pass")),
        ("pass, int8, of GenAI bf16", 0.75, direct("ours-int8", "pass")),
        ("pass, bf16, of GenAI bf16", 1.0, direct("ours-bf16", "pass")),
        ("pass, ONNX Runtime CPU, of optimum-onnx", 0.4, direct("ours-cpu-int8", "pass_beside_optimum-onnx")),
        ("4 steps, full decoder, of the fastest peer", 0.8, fastest("ours-reduced", full, "picture_4")),
        ("4 steps, tiny decoder, of the fastest peer", 0.65, fastest("ours-reduced-tiny", tiny, "picture_4")),
        ("cold, caches empty, bf16 of GenAI bf16", 0.5, cold("ours-bf16", "genai-bf16", "cold_empty")),
        ("cold, caches full, bf16 of GenAI bf16", 0.5, cold("ours-bf16", "genai-bf16", "cold_full")),
        ("cold, caches empty, int8 of GenAI int8", 0.5, cold("ours-int8", "genai-hybrid", "cold_empty")),
        ("cold, caches full, int8 of GenAI int8", 0.5, cold("ours-int8", "genai-hybrid", "cold_full")),
        ("peak memory, of the leanest peer within twice our speed", 0.6, lambda: _leanest(rows)),
    ]
    listed = []
    for text, most, find in asked:
        found = find()
        verdict = "not measured" if found is None else "met" if found <= most else "missed"
        listed.append((text, f"{most:g}x", "" if found is None else f"{found:.2f}x", verdict))
    return _table(("", "at most", "found", ""), listed)


def _leanest(rows: Rows) -> float | None:
    """Our least peak over that of the leanest peer whose 4-step picture takes at most twice our time."""
    mine = [
        (_megabytes(row, "cold_full"), seconds(rows, key, "picture_4"))
        for key, row in rows.items()
        if not row["peer"] and not row["tiny"]
    ]
    found = [(peak, time) for peak, time in mine if peak is not None and time is not None]
    if not found:
        return None
    peak, time = min(found)
    within = [
        other
        for key, row in rows.items()
        if row["peer"] and not row["tiny"]
        if (other := _megabytes(row, "cold_full")) is not None
        if (theirs := seconds(rows, key, "picture_4")) is not None
        if theirs <= 2 * time
    ]
    return peak / min(within) if within else None


def _beside(rows: Rows, key: str, cell: str) -> float | None:
    """Median seconds of a row that has no cell of its own, because others were timed beside it."""
    found = [
        value
        for row in rows.values()
        if (c := _cell(row, cell)) is not None and c.get("beside") == key
        for value in c["beside_seconds"]
    ]
    return statistics.median(found) if found else None


def _name(row: dict[str, Any]) -> str:
    return row["label"] + (", tiny decoder" if row["tiny"] else "")


def _cell(row: dict[str, Any], name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = row.get("cells", {}).get(name)
    return None if found is None or "error" in found else found


def _timed(rows: Rows, key: str, name: str) -> tuple[str, str]:
    cell = _cell(rows[key], name)
    if cell is None:
        beside = _beside(rows, key, name)
        return ("", "") if beside is None else (f"{beside:.2f} s", "1")
    ratios = cell["ratios"]
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(cell['seconds']):.2f} s", f"{statistics.median(ratios):.2f}x{spread}"


def _seconds(row: dict[str, Any], name: str) -> str:
    cell = _cell(row, name)
    return "" if cell is None else f"{statistics.median(cell['seconds']):.1f} s"


def _megabytes(row: dict[str, Any], name: str) -> float | None:
    cell = _cell(row, name)
    if cell is None:
        return None
    peaks = cell["peak_mb"]
    return float(max(peaks) if isinstance(peaks, list) else peaks)


def _peak(row: dict[str, Any], name: str) -> str:
    found = _megabytes(row, name)
    return "" if found is None else f"{found / 1000:.2f} GB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
