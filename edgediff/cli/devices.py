"""``edgediff devices``: what ``--device`` can take here."""

from __future__ import annotations

import json

import click


@click.command(short_help="List the devices that graphs can run on here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(as_json: bool) -> None:
    """List the devices that graphs can run on here, the default first."""
    from edgediff import runtime

    found = list(runtime.find("onnxruntime").devices())
    click.echo(json.dumps({"devices": found}) if as_json else "\n".join(found))
