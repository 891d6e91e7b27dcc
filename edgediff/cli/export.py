"""``edgediff export``: a checkpoint becomes a bundle. The work is done by :mod:`edgediff.export`."""

from __future__ import annotations

import importlib
import json
from typing import Any

import click

from edgediff.errors import UnsupportedError


@click.group(short_help="Turn a checkpoint into a bundle.")
def command() -> None:
    """Turn a checkpoint into a bundle."""


@command.command("onnx")
@click.option("-m", "--model", required=True, metavar="FOLDER", help="A diffusers folder with safetensors.")
@click.argument("out", metavar="OUT")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Storage of weights.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print the path alone.")
def onnx(model: str, out: str, dtype: str, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Write a bundle of ONNX graphs to the folder OUT, whole or not at all. Needs no PyTorch.

    Example: edgediff export onnx -m stable-diffusion-v1-5 bundle --dtype fp16
    """
    report = None if quiet or as_json else lambda line: click.echo(line, err=True)
    summary: Any = _exporter().export_onnx(model, out, dtype=dtype, overwrite=overwrite, report=report)
    click.echo(json.dumps(summary) if as_json else out)


def _exporter() -> Any:
    try:
        return importlib.import_module("edgediff.export.main")
    except ImportError as error:
        raise UnsupportedError(
            f"export needs more packages ({error}): pip install 'edgediff[export]'"
        ) from error
