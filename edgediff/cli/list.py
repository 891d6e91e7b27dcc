"""``edgediff list``: what the hub's cache holds of bundles and models."""

from __future__ import annotations

import json

import click


@click.command(short_help="List the bundles and models in the hub's cache.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(as_json: bool) -> None:
    """List the models in the hub's cache, one revision on each line: name, revision, size, kind and path."""
    from edgediff.hub import cache as hub_cache

    found = hub_cache.entries()
    if as_json:
        models = [
            {"id": e.repo, "revision": e.commit, "refs": list(e.refs), "bytes": e.bytes, "kind": e.kind,
             "path": str(e.path)}
            for e in found
        ]  # fmt: skip
        click.echo(json.dumps({"models": models}))
        return
    for e in found:
        name = e.repo if "main" in e.refs else f"{e.repo}@{next(iter(e.refs), e.commit[:12])}"
        click.echo(f"{name}  {e.commit[:12]}  {e.bytes / 1e6:,.1f} MB  {e.kind}  {e.path}")
    if not found:
        click.echo("The hub's cache holds no models; `edgediff pull ORG/NAME` fetches one.", err=True)
