"""``edgediff export``: a checkpoint becomes a bundle. The work is done by :mod:`edgediff.export`."""

from __future__ import annotations

import importlib
import json
from typing import Any

import click

from edgediff.cli.export_options import model_options, output_options, parts_of, source_options
from edgediff.errors import UnsupportedError

_COREML = (
    "palette-8", "palette-6", "palette-4", "palette-3", "palette-2", "palette-1",
    "int8-weights", "int4-weights", "int8", "mixed",
)  # fmt: skip


@click.group(short_help="Turn a checkpoint into a bundle.")
def command() -> None:
    """Turn a checkpoint into a bundle."""


@command.command("onnx")
@model_options
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Storage of weights.",
)
@click.option(
    "--profiles",
    default="portable,ort-cpu",
    show_default=True,
    metavar="LIST",
    help="Forms of each graph: portable, ort-cpu, ort-cuda, coreml-ep, openvino.",
)
@click.option(
    "--attention",
    metavar="WAY:SIZE@LEVELS",
    help="Reduce self-attention: tiles, shifted, pooled or strided, as tiles:2@1; level 1 is the finest.",
)
@click.option("--step-cache", is_flag=True, help="Add a shallow denoiser, for steps between whole passes.")
@click.option(
    "--split-text", is_flag=True, help="Make keys and values of the text once per prompt, not in every step."
)
@source_options
@click.option(
    "--quantize",
    type=click.Choice(["int8", "int8-weights", "int4-weights", "fp16", "mixed"]),
    help="int8 is for speed; -weights and fp16 are for memory and disk; mixed is searched for.",
)
@click.option("--calibration", metavar="FILE", help="Prompts to calibrate with, one a line.")
@click.option("--plan", metavar="FILE", help="Quantize by the quantization.json of another bundle.")
@click.option("--min-psnr", type=float, metavar="DB", help="Floor for the final latents, against float32.")
@click.option("--max-size", type=float, metavar="MB", help="With mixed: the most that weights may take.")
@click.option("--max-latency", type=float, metavar="S", help="With mixed: seconds per pass, here.")
@click.option("--tune", is_flag=True, help="Measure on this machine which form each layer is fastest in.")
@click.option("--force", is_flag=True, help="Keep a quantized bundle that fails its gates.")
@click.option(
    "--no-receipt", is_flag=True, help="Do not measure what was gained and lost, and have no gates."
)
@click.option("--explain", is_flag=True, help="Print which layer got which form, and why.")
@output_options
def onnx(
    model: str,
    out: str,
    profiles: str,
    as_json: bool,
    quiet: bool,
    dry_run: bool,
    no_receipt: bool,
    **given: Any,
) -> None:
    """Write a bundle of ONNX graphs to the folder OUT, whole or not at all. Needs no PyTorch.

    \b
    Examples:
      edgediff export onnx -m stable-diffusion-v1-5 bundle --dtype fp16
      edgediff export onnx -m dreamshaper.safetensors bundle --lora lcm-lora.safetensors --recipe lcm-lora
      edgediff export onnx -m stable-diffusion-v1-5 small --quantize int8 --explain
    """
    report = None if quiet or as_json else lambda line: click.echo(line, err=True)
    parts = parts_of(given)
    forms = tuple(name.strip() for name in profiles.split(","))
    summary: Any = _exporter().export_onnx(
        model, out, report=report, parts=parts, dry_run=dry_run, profiles=forms, **given,
        **({"receipt": False} if no_receipt else {}),
    )  # fmt: skip
    _tell(summary, out, as_json, quiet, dry_run)


def _sizes(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> list[tuple[int, int]]:
    """Heights and widths of pictures: 768x512."""
    found = []
    for text in given:
        sides = text.lower().split("x")
        if len(sides) != 2 or not all(side.isascii() and side.isdigit() for side in sides):
            raise click.BadParameter(f"{text!r} is no size; give height and width in pixels, as 512x768.")
        found.append((int(sides[0]), int(sides[1])))
    return found


@command.command("coreml")
@model_options
@click.option(
    "--layout",
    type=click.Choice(["edgediff", "apple"]),
    default="edgediff",
    show_default=True,
    help="A bundle of ours, or the folder that Apple's Swift package StableDiffusion reads.",
)
@click.option(
    "--dtype",
    type=click.Choice(["fp16", "fp32"]),
    default="fp16",
    show_default=True,
    help="What programs compute and store.",
)
@click.option(
    "--attention",
    type=click.Choice(["split-einsum", "split-einsum-v2", "original"]),
    default="split-einsum",
    show_default=True,
    help="split-einsum is for the Neural Engine, original for the GPU.",
)
@click.option(
    "--reduce-attention",
    metavar="WAY:SIZE@LEVELS",
    help="Reduce self-attention: tiles, shifted, pooled or strided, as tiles:2@1; level 1 is the finest.",
)
@click.option(
    "--target",
    type=click.Choice(["iOS17", "iOS18"]),
    default="iOS17",
    show_default=True,
    help="The oldest system that loads it; iOS17 is macOS 14, iOS18 macOS 15.",
)
@click.option(
    "--size",
    "sizes",
    callback=_sizes,
    metavar="HxW",
    multiple=True,
    help="Picture size, as 512x768; may be given several times. Shapes are fixed; else the model's own.",
)
@click.option("--batch", type=click.IntRange(1, 16), help="Rows of the denoiser; 1, or 2 in layout apple.")
@click.option("--chunk", is_flag=True, help="Cut the U-Net in two, for devices that take no large program.")
@click.option(
    "--guidance-scale", type=float, metavar="S", help="In layout apple, what an LCM's U-Net is guided with."
)
@source_options
@click.option("--quantize", type=click.Choice(_COREML), help="How weights are stored; int8 also computes so.")
@click.option(
    "--granularity",
    type=click.Choice(["per-tensor", "per-grouped-channel"]),
    help="Palettes: one for each weight, or for groups of its channels (iOS18).",
)
@click.option("--group-size", type=click.IntRange(1), metavar="N", help="Channels of a group.")
@click.option("--calibration", metavar="FILE", help="Prompts to calibrate with, one a line.")
@click.option("--plan", metavar="FILE", help="A mixed plan: the quantization.json of another bundle.")
@click.option("--min-psnr", type=float, metavar="DB", help="Floor for the final latents, against float32.")
@click.option("--max-size", type=float, metavar="MB", help="With mixed: the most that weights may take.")
@click.option("--force", is_flag=True, help="Keep packages that fail their gates, or need another scheduler.")
@click.option(
    "--no-receipt", is_flag=True, help="Do not measure what was gained and lost, and have no gates."
)
@output_options
def coreml(
    model: str, out: str, as_json: bool, quiet: bool, dry_run: bool, no_receipt: bool, **given: Any
) -> None:
    """Write Core ML packages to the folder OUT, whole or not at all. Needs neither PyTorch nor a Mac.

    MODEL may also be a bundle of ONNX graphs that edgediff wrote in fp32 or fp16; "embedded" is its own.

    \b
    Examples:
      edgediff export coreml -m stable-diffusion-v1-5 bundle
      edgediff export coreml -m stable-diffusion-v1-5 Resources --layout apple --quantize palette-6
      edgediff export coreml -m embedded shapes
      edgediff export coreml -m sdxl.safetensors gpu --attention original --size 1024x1024
    """
    report = None if quiet or as_json else lambda line: click.echo(line, err=True)
    parts = parts_of(given)
    summary: Any = _exporter("edgediff.export.coreml.main").export_coreml(
        model, out, report=report, parts=parts, dry_run=dry_run, **given,
        **({"receipt": False} if no_receipt else {}),
    )  # fmt: skip
    _tell(summary, out, as_json, quiet, dry_run)


def _tell(summary: Any, out: str, as_json: bool, quiet: bool, dry_run: bool) -> None:
    """Print what an export returned."""
    if as_json:
        click.echo(json.dumps(summary))
    elif dry_run and not quiet:
        for name, size in summary["files"].items():
            click.echo(f"{size / 1e6:10.2f} MB  {name}")
        click.echo(
            f"{summary['bytes'] / 1e6:10.2f} MB in all, {summary['free_disk'] / 1e6:.0f} MB free; the export "
            f"takes about {summary['peak_memory'] / 1e6:.0f} MB of memory"
        )
    else:
        for line in summary.get("explanation", ()):
            click.echo(line)
        click.echo(out)


def _exporter(name: str = "edgediff.export.main") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnsupportedError(
            f"export needs more packages ({error}): pip install 'edgediff[export]'"
        ) from error
