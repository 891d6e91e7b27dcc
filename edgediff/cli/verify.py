"""``edgediff verify``: every file against its sha256, then one pass of every graph."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command(short_help="Check a bundle's files, and one small picture.")
@click.argument("bundle", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(bundle: str | None, as_json: bool) -> None:
    """Compare every file of BUNDLE with its manifest, load every graph and draw one picture with one step.

    Ends with status 0, or with that of the first fault (3 and 4: see the error).
    """
    from edgediff.bundle import Bundle
    from edgediff.pipeline import EMBEDDED, load

    found = Bundle.open(EMBEDDED if bundle is None else bundle)
    found.verify()
    pipe = load(found, verify=False)
    sizes: dict[str, Any] = {a: max(f, 64) // f * f for a, f in found.latents.downscale.items()}
    drawn = pipe("", num_inference_steps=1, seed=0, guidance_scale=1.0, output_type="np", **sizes).images
    if "encoder" in found.components:
        pipe.encode(drawn.transpose(0, 3, 1, 2) * 2 - 1)
    result = {"bundle": str(found.path), "files": len(found.files), "graphs": len(pipe.infos()), "ok": True}
    text = (
        f"{found.path}: {result['files']} files match, {result['graphs']} graphs ran, the picture is finite"
    )
    click.echo(json.dumps(result) if as_json else text)
