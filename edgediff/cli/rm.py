"""``edgediff rm``: give back the room that a cached bundle or model takes."""

from __future__ import annotations

import json
import sys

import click


@click.command(short_help="Delete a bundle or a model from the hub's cache.")
@click.argument("name", metavar="ORG/NAME[@REVISION]")
@click.option("--revision", help="Delete only this one: branch, tag, commit or the start of one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(name: str, revision: str | None, yes: bool, as_json: bool) -> None:
    """Delete ORG/NAME from the hub's cache, all revisions unless one is named. Folders elsewhere stay."""
    from edgediff.errors import CancelledError
    from edgediff.hub import cache as hub_cache

    found = hub_cache.removal(name, revision)
    said = f"{found.repo}: {len(found.commits)} revision(s), {found.freed / 1e6:,.1f} MB"
    if not yes:
        if as_json or sys.stdin is None or not sys.stdin.isatty():
            raise click.UsageError(f"{said} would be deleted; add --yes where nobody can be asked.")
        if not click.confirm(f"Delete {said}?", err=True):
            raise CancelledError(f"{found.repo}: nothing was deleted.")
    found.execute()
    facts = {"id": found.repo, "revisions": list(found.commits), "freed": found.freed}
    click.echo(json.dumps(facts) if as_json else f"deleted {said}")
