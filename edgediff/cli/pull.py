"""``edgediff pull``: a bundle or a model from the hub into the hub client's cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Download a bundle or a model from the hub.")
@click.argument("name", metavar="ORG/NAME[@REVISION]")
@click.option("--revision", help="Branch, tag or commit; main unless given.")
@click.option("--variant", help="Weights such as fp16; the fullest that there are unless given.")
@click.option("--token", help="Instead of HF_TOKEN or the one that `hf auth login` stored.")
@click.option("--dry-run", is_flag=True, help="Say what would be downloaded and how big it is.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print the path alone; no progress.")
def command(
    name: str, revision: str | None, variant: str | None, token: str | None, dry_run: bool, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Download what is needed of ORG/NAME and print where it lies.

    Of a bundle these are the files that its manifest lists; of a model to export, its configuration and one
    variant of its weights as safetensors. What the cache holds already is not downloaded again.

    Example: edgediff export onnx -m "$(edgediff pull stable-diffusion-v1-5/stable-diffusion-v1-5)" bundle
    """
    from edgediff import hub
    from edgediff.hub import client as hub_client

    repo, revision = hub.split_id(name, revision)
    say = None if quiet or as_json else _say
    if hub_client.is_offline() and not dry_run:  # what is cached is then all there is
        found = hub.fetch(repo, "pull", revision=revision, variant=variant)
        click.echo(json.dumps(_facts(found)) if as_json else found.path)
        return
    asked = hub.plan(repo, revision, "pull", variant, token)
    if dry_run:
        _print_plan(asked, as_json)
        return
    found = hub.pull(asked, token=token, say=say, quiet=say is None)
    click.echo(json.dumps({**_facts(found), "bytes": asked.bytes, "downloaded": asked.missing_bytes})
               if as_json else found.path)  # fmt: skip


def bundle_path(name: str, quiet: bool = False) -> Path | str:
    """Return what ``-m`` names as a path: a name on the hub is fetched, anything else handed back."""
    from edgediff import hub

    return hub.fetch(name, say=None if quiet else _say, quiet=quiet).path if hub.is_hub_id(name) else name


def _say(line: str) -> None:
    click.echo(line, err=True)


def _facts(found: Any) -> dict[str, Any]:
    return {"path": str(found.path), "id": found.repo, "revision": found.commit, "kind": found.kind}


def _print_plan(asked: Any, as_json: bool) -> None:
    if as_json:
        facts = {"id": asked.repo, "revision": asked.commit, "kind": asked.kind, "bytes": asked.bytes}
        files = {n: {"bytes": size, "cached": n not in asked.missing} for n, size in asked.files.items()}
        click.echo(json.dumps({**facts, "to_download": asked.missing_bytes, "files": files}))
        return
    click.echo(f"{asked.repo} at {asked.commit}: {asked.kind}")
    for file, size in asked.files.items():
        click.echo(f"{size:>14,}  {file}" + ("" if file in asked.missing else "  (cached)"))
    click.echo(f"{asked.bytes:>14,}  in {len(asked.files)} files, {asked.missing_bytes:,} to download")
