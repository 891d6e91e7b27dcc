"""Write the README's figures from the records that the benchmarks left: ``python -m benchmarks.readme``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARKS = ("<!-- figures: written by benchmarks/readme.py -->", "<!-- end of figures -->")


def main() -> None:
    """Replace what lies between the README's two marks."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    cold = json.loads((ROOT / "benchmarks/results/cold_start.json").read_text())
    judged = json.loads((ROOT / "benchmarks/reference/results.json").read_text())
    exported = json.loads((ROOT / "benchmarks/results/export.json").read_text())
    graphs = json.loads((ROOT / "benchmarks/results/graphs_denoiser.json").read_text())
    speed = json.loads((ROOT / "benchmarks/results/quantize_speed.json").read_text())
    quality = json.loads((ROOT / "benchmarks/results/quantize_quality.json").read_text())
    parts = [
        start_up(cold),
        exporting(exported),
        passes(graphs),
        quantized(speed),
        kept(quality),
        accuracy(judged),
    ]
    body = "\n\n".join(parts)
    readme.write_text(f"{before}{MARKS[0]}\n{body}\n{MARKS[1]}{after}", encoding="utf-8")


def start_up(record: dict[str, Any]) -> str:
    """One sentence and a table: a cold process, from nothing to a PNG."""
    machine = record["machine"]
    rows = [
        ("cold process to PNG, median", f"{record['median_s']:.2f} s"),
        ("fastest and slowest", f"{record['min_s']:.2f} to {record['max_s']:.2f} s"),
        ("first run after installing", f"{record['first_run_s']:.2f} s"),
        ("peak resident memory", f"{record['peak_rss_mb']:.0f} MB"),
        ("installed size, without pip and with bytecode made on use", f"{record['environment_mb']:.0f} MB"),
    ]
    intro = (
        f"The embedded model, {record['runs']} cold runs of `edgediff run` on {machine['cores']} cores of an "
        f"{machine['processor']}\n(`python -m benchmarks.cold_start --fresh`):"
    )
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    return intro + "\n\n" + "\n".join(lines)


def exporting(record: dict[str, Any]) -> str:
    """Seconds, memory and bytes of exporting full-size models."""
    names = {"sd15": "Stable Diffusion 1.5", "sd21": "Stable Diffusion 2.1", "sdxl": "SDXL"}
    intro = (
        f"Exporting full-size models with random weights ({record['checkpoint']}), checks included, median "
        f"of {record['runs']} runs\n(`python -m benchmarks.export onnx --optimum PYTHON`; Optimum ran once):"
    )
    lines = ["| model | exporter | weights stored | seconds | peak memory | bundle |", "|" + " --- |" * 6]
    for row in record["exports"]:
        seconds = f"{row['median_s']:.0f} ({row['min_s']:.0f} to {row['max_s']:.0f})"
        size, peak = f"{row['bytes'] / 1e9:.2f} GB", f"{row['peak_rss_mib'] * 1.048576:.0f} MB"
        cells = [names[row["model"]], row["exporter"], row["dtype"], seconds, peak, size]
        lines.append("| " + " | ".join(cells) + " |")
    return intro + "\n\n" + "\n".join(lines)


def passes(record: dict[str, Any]) -> str:
    """One network's graphs side by side."""
    size = " x ".join(str(8 * extent) for extent in record["latents"])
    intro = (
        f"One pass of Stable Diffusion 1.5's U-Net in fp32 ({size}, batch {record['batch']}), in turns under "
        f"the same session options,\n{record['rounds']} rounds "
        "(`python -m benchmarks.graphs --theirs FOLDER`):"
    )
    lines = ["| graph | nodes | seconds | peak memory | takes, beside ours |", "|" + " --- |" * 5]
    for name, graph in record["graphs"].items():
        ratio = graph.get("times_as_long")
        seconds = graph["seconds"]
        cells = [
            "edgediff, ort-cpu" if name == "ort-cpu" else name.capitalize(),
            str(graph["nodes"]),
            f"{seconds['median']:.2f} ({seconds['min']:.2f} to {seconds['max']:.2f})",
            f"{graph['peak_rss_mb']} MB",
            "" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return intro + "\n\n" + "\n".join(lines)


def quantized(record: dict[str, Any]) -> str:
    """One network in fp32, in the stock quantizer's int8 and in ours, on each provider."""
    intro = (
        f"The same pass in int8, {record['rounds']} rounds in turns\n"
        "(`python -m benchmarks.quantize_speed`; random weights, so only time and memory count):"
    )
    lines = ["| provider | graph | seconds | of the first row | peak memory |", "|" + " --- |" * 5]
    for provider, rows in record["providers"].items():
        for name, row in rows.items():
            seconds, ratio = row["seconds"], row["ratio"]
            cells = [
                {"cpu": "CPU", "openvino": "OpenVINO"}[provider],
                "edgediff, int8"
                if name == "int8"
                else "ONNX Runtime's quantizer"
                if "stock" in name
                else name,
                f"{seconds['median']:.2f} ({seconds['min']:.2f} to {seconds['max']:.2f})",
                f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
                f"{row['peak_rss_mb']} MB",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return intro + "\n\n" + "\n".join(lines)


def kept(record: dict[str, Any]) -> str:
    """What quantization leaves of the embedded model's accuracy."""
    intro = (
        f"What quantizing the embedded model costs, on {record['rows']['fp32']['accuracy']['of']} captions "
        "that training never saw, at equal seeds\n(`python -m benchmarks.quantize_quality`; points with "
        "their 95 % interval; more in [docs/quantize.md](docs/quantize.md)):"
    )
    lines = ["| scheme | weights, of fp32 | points from fp32 | final latents, PSNR |", "|" + " --- |" * 4]
    for name, row in record["rows"].items():
        gap = row.get("difference")
        if gap is not None and name != "fp16":
            points = f"{gap['points']:+.1f} ({gap['low']:+.1f} to {gap['high']:+.1f})"
            label = "ONNX Runtime's quantizer" if name == "stock int8" else name
            cells = [label, f"{row['share_of_fp32']:.3f}", points, f"{row['latents_psnr_db']:.1f} dB"]
            lines.append("| " + " | ".join(cells) + " |")
    return intro + "\n\n" + "\n".join(lines)


def accuracy(results: dict[str, Any]) -> str:
    """The judged share of captions that are right in every respect."""
    columns = ("colour", "shape", "position", "relation", "whole", "whole, 1 object", "whole, 2 objects")
    head = [
        "right, %",
        "colour",
        "shape",
        "position",
        "relation",
        "whole caption",
        "one object",
        "two objects",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, row in results.items():
        if isinstance(row, dict) and "heldout-captions" in row:
            scores = row["heldout-captions"]["scores"]
            label = "ceiling: the autoencoder alone" if name == "ceiling" else name
            cells = [f"{100 * scores[c]['share']:.1f}" if c in scores else "" for c in columns]
            lines.append("| " + " | ".join([label, *cells]) + " |")
    intro = (
        f"How often its pictures show what {results['captions']} captions say that training never saw, "
        "by an exact judge\n(`python -m benchmarks.accuracy`; held-out pairs and intervals are in the model "
        "card):"
    )
    return intro + "\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
