"""``edgediff cache``: what is kept of compiled graphs, and giving that room back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Say what edgediff keeps of compiled graphs, or delete it.")
@click.option("--clear", is_flag=True, help="Delete all of it; it is made again when it is needed.")
@click.option("--folder", metavar="FOLDER", help="Another one than the user's own (or EDGEDIFF_CACHE).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(clear: bool, folder: str | None, as_json: bool) -> None:
    """List the compiled graphs that later starts read instead of compiling anew, the longest unused first."""
    from edgediff import cache_folder

    place = cache_folder.chosen(folder)
    if place is None:
        raise click.UsageError("--folder: give a folder.")
    facts: dict[str, Any] = {"folder": str(place), "limit": cache_folder.LIMIT}
    if clear:
        facts["freed"] = cache_folder.clear(place)
        click.echo(json.dumps(facts) if as_json else f"freed {facts['freed'] / 1e6:,.1f} MB in {place}")
        return
    held = cache_folder.entries(place)
    facts["bytes"] = sum(entry.bytes for entry in held)
    facts["entries"] = [
        {"name": entry.path.name, "bytes": entry.bytes, "used": entry.used, **entry.facts} for entry in held
    ]
    if as_json:
        click.echo(json.dumps(facts, default=str))
        return
    for entry in held:
        click.echo(_line(entry.path, entry.facts, entry.bytes))
    click.echo(f"{facts['bytes'] / 1e6:,.1f} MB of at most {facts['limit'] / 1e6:,.0f} MB in {place}")


def _line(path: Path, facts: Any, size: int) -> str:
    extents = facts.get("extents") or {}
    sizes = " ".join(f"{name} {extent}" for name, extent in extents.items()) or "open sizes"
    precision = facts.get("precision") or "fp32"
    return f"{path.name[:12]}  {size / 1e6:9,.1f} MB  {facts.get('kind', 'damaged'):<9} {precision}  {sizes}"
