"""``edgediff devices``: what ``--device`` can take here."""

from __future__ import annotations

import importlib
import json

import click


@click.command(short_help="List the devices that graphs can run on here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(as_json: bool) -> None:
    """List the devices that graphs can run on here, the default first; those of Core ML are the last."""
    from edgediff import runtime

    found = list(runtime.find("onnxruntime").devices())
    found += [name for name in coreml_devices() if name not in found]
    click.echo(json.dumps({"devices": found}) if as_json else "\n".join(found))


def coreml_devices() -> tuple[str, ...]:
    """Return the devices of Core ML's own runtime; none away from macOS, or without coremltools."""
    found: tuple[str, ...] = importlib.import_module("edgediff.runtimes._coreml_tools").devices()
    return found
