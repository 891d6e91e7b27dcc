"""``edgediff export``: a checkpoint becomes a bundle. The work is done by :mod:`edgediff.export`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgediff.errors import UnsupportedError

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(short_help="Turn a checkpoint into a bundle.")
def command() -> None:
    """Turn a checkpoint into a bundle."""


def _parts(names: tuple[str, ...]) -> Callable[[Command], Command]:
    """An option for each part that another file or folder can replace."""

    def decorate(function: Command) -> Command:
        for name in reversed(names):
            flag = "--" + name.replace("_", "-")
            function = click.option(flag, name, metavar="PATH", help=f"Take the {name} from here.")(function)
        return function

    return decorate


_PARTS = ("vae", "unet", "text_encoder", "text_encoder_2")


@command.command("onnx")
@click.option(
    "-m",
    "--model",
    required=True,
    metavar="MODEL",
    help="A folder, a .safetensors file, or a name on the hub (ORG/NAME[@REVISION]).",
)
@click.argument("out", metavar="OUT")
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
@click.option("--variant", metavar="NAME", help="Which weights of a folder to read: fp16, bf16, ...")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a model on the hub.")
@click.option("--token", help="The hub's token, for gated models; else that of the hub's own client.")
@_parts(_PARTS)
@click.option(
    "--controlnet",
    "controlnets",
    multiple=True,
    metavar="PATH",
    help="Add a ControlNet; may be given several times.",
)
@click.option("--tokenizer", metavar="FOLDER", help="Take the tokenizer's files from here.")
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="FILE[:SCALE]",
    help="Add an adapter to the weights; may be given several times.",
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="How a few-step model is drawn: lcm, lcm-lora, turbo, "
    "lightning-4, hyper-8, tcd, sdxs, dmd2, ...; recognised where the model says so; none forbids it.",
)
@click.option(
    "--prediction-type",
    type=click.Choice(["epsilon", "v_prediction", "sample"]),
    help="What a single file's network predicts, where the file does not say.",
)
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
@click.option("--dry-run", is_flag=True, help="Write nothing; say which files and how much memory it takes.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print the path alone.")
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
    parts = {name: path for name in _PARTS if (path := given.pop(name)) is not None}
    forms = tuple(name.strip() for name in profiles.split(","))
    summary: Any = _exporter().export_onnx(
        model, out, report=report, parts=parts, dry_run=dry_run, profiles=forms, **given,
        **({"receipt": False} if no_receipt else {}),
    )  # fmt: skip
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


def _exporter() -> Any:
    try:
        return importlib.import_module("edgediff.export.main")
    except ImportError as error:
        raise UnsupportedError(
            f"export needs more packages ({error}): pip install 'edgediff[export]'"
        ) from error
