"""Write the figures of docs/quantize.md from the records: ``python -m benchmarks.quantize_page``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from edgediff.export.quantize.gates import FLOORS
from edgediff.quality import MOST

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "quantize.md"
BEGIN, END = "<!-- {}: written by python -m benchmarks.quantize_page -->", "<!-- end of {} -->"
Record = dict[str, Any]
_PROVIDERS = {"cpu": "ONNX Runtime's CPU provider", "openvino": "the OpenVINO plug-in provider"}


def main() -> None:
    """Replace what lies between each pair of marks whose record is there."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """Return the page with every table that there is a record for."""
    text = _between(text, "floors", floors())
    for name, written in {"quality": quality, "speed": speed}.items():
        file = ROOT / "benchmarks" / "results" / f"quantize_{name}.json"
        if file.exists():
            text = _between(text, name, written(json.loads(file.read_text())))
    return text


def _between(text: str, name: str, written: str) -> str:
    begin, end = BEGIN.format(name), END.format(name)
    head, rest = text.split(begin)
    return f"{head}{begin}\n{written}\n{end}{rest.split(end)[1]}"


def floors() -> str:
    """What the gates ask of each scheme."""
    head = (
        "floors",
        "a part, SNR",
        "a layer, SNR",
        "latents, PSNR",
        "latents, SNR",
        "pictures, PSNR",
        "SSIM",
    )
    rows = [
        (f"`{name}`", *(f"{value:g} dB" for value in astuple(floor)[:-1]), f"{floor.ssim:g}")
        for name, floor in FLOORS.items()
    ]
    return table(head, rows)


def quality(record: Record) -> str:
    """The reference model in all schemes."""
    intro = (
        f"{record['captions']} held-out captions, {record['steps']} steps, the same seeds for every row\n"
        "(`python -m benchmarks.quantize_quality`). Right: pictures that show all that the caption says, by\n"
        "the exact judge; the difference from fp32 is paired, with its 95 % interval. Weights are those of\n"
        f"one form. Times are medians in turns on {_machine(record)}."
    )
    head = ("", "right", "points from fp32", "latents, PSNR", "pictures, PSNR", "weights", "of fp32",
            "denoiser's weights", "a picture", "a pass")  # fmt: skip
    rows = [_quality_row(name, row, record["rows"]["fp32"]) for name, row in record["rows"].items()]
    refused = [
        f"`{name}` was refused, and kept with `--force`: {_reasons(row['export']['refused'])}"
        for name, row in record["rows"].items()
        if row["export"]["refused"]
    ]
    forms = record["rows"].get("int8", {}).get("forms", {})
    others = [] if not forms else [_forms(forms)]
    return "\n\n".join([intro, table(head, rows), *refused, *others])


def _forms(forms: Record) -> str:
    """The graphs of the int8 bundle that this processor does not get, run on it all the same."""
    head = ("the same int8 bundle as", "right", "points from fp32", "latents, PSNR", "pictures, PSNR")
    return table(head, [(f"`{name}`", *_judged(row)) for name, row in forms.items()])


def _quality_row(name: str, row: Record, parent: Record) -> tuple[str, ...]:
    denoiser = row["weight_bytes"]["denoiser"] / parent["weight_bytes"]["denoiser"]
    return (
        name,
        *_judged(row),
        f"{sum(row['weight_bytes'].values()) / 1e6:.2f} MB",
        f"{row['share_of_fp32']:.3f}",
        f"{denoiser:.3f}",
        _median(row, "picture_s"),
        _median(row, "pass_s"),
    )


def _median(row: Record, name: str) -> str:
    return f"{1e3 * row[name]['median']:.2f} ms" if name in row else ""


def _judged(row: Record) -> tuple[str, ...]:
    gap = row.get("difference")
    return (
        f"{100 * row['accuracy']['share']:.1f} %",
        f"{gap['points']:+.1f} ({gap['low']:+.1f} to {gap['high']:+.1f})" if gap else "",
        _decibel(row, "latents_psnr_db"),
        _decibel(row, "pictures_psnr_db"),
    )


def _decibel(row: Record, name: str) -> str:
    if name not in row:
        return ""
    return "equal" if row[name] == MOST else f"{row[name]:.1f} dB"


def _reasons(said: str) -> str:
    return said.splitlines()[-1].removeprefix("error: ")


def speed(record: Record) -> str:
    """The full-size U-Net, a table for each provider, and what the exports took."""
    side, rounds = 8 * record["size"], record["rounds"]
    parts = [
        f"Stable Diffusion 1.5's U-Net with random weights, {side}x{side}, batch 1, {rounds} passes each in\n"
        f"turns on {_machine(record)} (`python -m benchmarks.quantize_speed`).\nA ratio is that of two "
        "passes of one round: median, least and largest. Load and peak memory are those of a\nprocess with "
        "this graph alone."
    ]
    for name, rows in record["providers"].items():
        head = (f"on {_PROVIDERS[name]}", "a pass", "of the first row", "load", "peak memory")
        body = [_speed_row(each, row) for each, row in rows.items()]
        parts.append(table(head, body))
        against = rows.get("int8", {}).get("ratio_to_stock")
        if against:
            parts.append(f"Ours takes {_ratio(against)} of the time of the stock quantizer's.")
    if record["exports"]:
        parts.append(exports(record["exports"]))
    return "\n\n".join(parts)


def _speed_row(name: str, row: Record) -> tuple[str, ...]:
    return (
        name,
        f"{row['seconds']['median']:.2f} s ({row['seconds']['min']:.2f} to {row['seconds']['max']:.2f})",
        _ratio(row["ratio"]),
        f"{row['load_s']:.1f} s",
        f"{row['peak_rss_mb'] / 1e3:.2f} GB",
    )


def exports(record: Record) -> str:
    """What making the bundles took."""
    head = ("making the bundle", "before the receipt", "peak", "in all", "peak, in all")
    body = []
    for name, cost in record.items():
        before = cost.get("before_receipt") or {}
        body.append((name, _seconds(before), _peak(before), _seconds(cost), _peak(cost)))
    return table(head, body)


def _seconds(cost: Record) -> str:
    return f"{cost['seconds']:.0f} s" if "seconds" in cost else ""


def _peak(cost: Record) -> str:
    return f"{cost['peak_rss_mb'] / 1e3:.1f} GB" if cost.get("peak_rss_mb") else ""


def _ratio(spread: Record) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


def _machine(record: Record) -> str:
    machine = record["machine"]
    return f"{machine['cores']} cores of an {machine['processor']}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
