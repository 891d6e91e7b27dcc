"""Write the figures of docs/coreml.md from the records: ``python -m benchmarks.coreml_page``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.quantize_page import table
from edgediff.quality import MOST

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "coreml.md"
BEGIN, END = "<!-- {}: written by python -m benchmarks.coreml_page -->", "<!-- end of {} -->"
Record = dict[str, Any]


def main() -> None:
    """Replace what lies between each pair of marks whose record is there."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """Return the page with every table that there is a record for."""
    for name, written in {"accuracy": accuracy, "steps": steps, "export": exports}.items():
        file = ROOT / "benchmarks" / "results" / f"coreml_{name}.json"
        if file.exists():
            text = _between(text, name, written(json.loads(file.read_text())))
    return text


def _between(text: str, name: str, written: str) -> str:
    begin, end = BEGIN.format(name), END.format(name)
    head, rest = text.split(begin)
    return f"{head}{begin}\n{written}\n{end}{rest.split(end)[1]}"


def accuracy(record: Record) -> str:
    """The reference model in all forms, through the interpreter."""
    own, rows = record["parent"], record["rows"]
    intro = (
        f"{record['captions']} held-out captions, {record['steps']} steps, the same seeds for every row\n"
        "(`python -m benchmarks.coreml_accuracy`). Right: pictures that show all that the caption says, by\n"
        "the exact judge; the difference from float32 ONNX is paired, with its 95 % interval. Latents are\n"
        "compared at equal seeds. Bytes are those of all packages, and of the U-Net's."
    )
    head = ("", "right", "points from float32", "latents, PSNR", "pictures, PSNR", "packages", "U-Net")
    weights = own["weight_bytes"]
    first = ("ONNX, float32", _share(own), "", "", "", _mb(sum(weights.values())), _mb(weights["denoiser"]))
    body = [_accuracy_row(name, row) for name, row in rows.items()]
    refused = [
        f"`{name}` was refused, and kept with `--force`: {_reason(row['export']['refused'])}"
        for name, row in rows.items()
        if row["export"]["refused"]
    ]
    return "\n\n".join([intro, table(head, [first, *body]), *refused])


def _accuracy_row(name: str, row: Record) -> tuple[str, ...]:
    unet = sum(size for package, size in row["packages"].items() if package.startswith("Unet"))
    return (
        f"`{name}`",
        _share(row),
        _gap(row),
        _decibel(row["latents_psnr_db"]),
        _decibel(row["pictures_psnr_db"]),
        _mb(sum(row["packages"].values())),
        _mb(unet),
    )


def steps(record: Record) -> str:
    """The reference model with the sampler that it was made for, and as Apple's package would draw."""
    rows = record["rows"]
    intro = (
        f"The embedded model, which was distilled for LCM's sampler, on {record['captions']} held-out\n"
        "captions (`python -m benchmarks.coreml_steps`), with ONNX graphs in all rows."
    )
    body = [("LCM, its own", str(record["own_steps"]), _share(rows["its own"]), "")]
    body += [
        ("DPM-Solver++ as Apple lays it", count, _share(row), _gap(row))
        for count, row in rows.items()
        if count != "its own"
    ]
    return "\n\n".join([intro, table(("sampler", "steps", "right", "points from its own"), body)])


def exports(record: Record) -> str:
    """What making the packages took."""
    machine = record["machine"]
    intro = (
        f"Random weights, stored as {record['checkpoint']}, on {machine['cores']} cores of an\n"
        f"{machine['processor']} (`python -m benchmarks.export coreml`). Seconds are medians; the peak is\n"
        "that of all processes together."
    )
    head = ("model, form, receipt", "runs", "seconds", "peak", "packages", "U-Net")
    body = []
    for name, row in record["exports"].items():
        unet = sum(size for package, size in row["packages"].items() if package.startswith("Unet"))
        body.append(
            (
                name,
                str(row["runs"]),
                f"{row['seconds']:.0f} s",
                f"{row['peak_rss_mb'] / 1e3:.1f} GB" if row["peak_rss_mb"] else "",
                _mb(sum(row["packages"].values())),
                _mb(unet),
            )
        )
    return "\n\n".join([intro, table(head, body)])


def _share(row: Record) -> str:
    return f"{100 * row['accuracy']['share']:.1f} %"


def _gap(row: Record) -> str:
    gap = row["difference"]
    return f"{gap['points']:+.1f} ({gap['low']:+.1f} to {gap['high']:+.1f})"


def _decibel(value: float) -> str:
    return "equal" if value == MOST else f"{value:.1f} dB"


def _mb(size: float) -> str:
    return f"{size / 1e6:.2f} MB" if size < 1e8 else f"{size / 1e9:.2f} GB"


def _reason(said: str) -> str:
    return said.splitlines()[-1].removeprefix("edgediff: ")


if __name__ == "__main__":
    main()
