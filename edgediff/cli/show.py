"""``edgediff show``: what a bundle holds, read from its manifest, and from its Core ML packages if any."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Say what a bundle holds.")
@click.argument("bundle", required=False)
@click.option("--table", is_flag=True, help="Print the sampler's table of linear combinations, as JSON.")
@click.option("--sampler", help="With --table: another sampler than the bundle's.")
@click.option("--steps", type=int, help="With --table: another number of steps than the bundle's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(bundle: str | None, table: bool, sampler: str | None, steps: int | None, as_json: bool) -> None:
    """Print what BUNDLE (the embedded model unless given) holds: facts, defaults, graphs and files.

    It may also be a Core ML package, a folder NAME.mlpackage: then its inputs, operations and weights, and
    which operations may leave the Neural Engine.
    """
    from edgediff.bundle import COREML, Bundle
    from edgediff.cli import show_package
    from edgediff.cli.pull import bundle_path
    from edgediff.pipeline import EMBEDDED

    if bundle is not None and show_package.is_package(bundle):
        if table or sampler is not None or steps is not None:
            raise click.UsageError("A Core ML package has no sampler; --table wants a bundle.")
        show_package.show(Path(bundle), as_json)
        return
    found = Bundle.open(EMBEDDED if bundle is None else bundle_path(bundle, as_json))
    if table:
        click.echo(_table(found, sampler, steps), nl=False)
        return
    if sampler is not None or steps is not None:
        raise click.UsageError("--sampler and --steps choose a table; add --table.")
    if as_json:
        click.echo(json.dumps(_facts(found)))
        return
    defaults, latents = found.defaults, found.latents
    extent = " x ".join(f"{v} {k}" for k, v in defaults.size.items())
    click.echo(f"{found.path}")
    click.echo(f"  family     {found.family} (format {found.format_version or 'none: no manifest'})")
    click.echo(
        f"  source     {found.origin.get('source')}, licence {found.origin.get('license') or 'not stated'}"
    )
    click.echo(f"  tasks      {', '.join(found.tasks) or 'not stated'}")
    planned = f"{defaults.num_inference_steps} steps of {defaults.sampler or 'its own scheduler'}"
    click.echo(f"  defaults   {planned}, guidance {defaults.guidance_scale:g}, {extent}")
    if defaults.recipe is not None:
        ranges = [f"{name} {n.low:g} to {n.high:g} ({n.outside})" for name, n in defaults.limits.items()]
        click.echo(f"  recipe     {defaults.recipe}: {', '.join(ranges)}")
    adapters = found.origin.get("adapters")  # part of what may hold anything
    for adapter in adapters if isinstance(adapters, list) else ():
        click.echo(f"  adapter    {json.dumps(adapter)}")
    click.echo(f"  latents    {latents.channels} channels, scale {latents.scaling_factor:g}, "
               f"predicts {found.scheduler.get('prediction_type', 'epsilon')}")  # fmt: skip
    if found.attention:
        click.echo(f"  attention  reduced: {'+'.join(map(str, found.attention))}")
    if found.profiles:
        forms = "; ".join(f"{device} takes {', '.join(names)}" for device, names in found.profiles.items())
        click.echo(f"  profiles   {forms}")
    for role, graphs in found.components.items():
        for graph in graphs:
            megabytes = (
                sum(found.files[n].bytes for n in (graph.file, *graph.weights) if n in found.files) / 1e6
            )
            kind = ", ".join(filter(None, (graph.precision, graph.numerics, graph.profile)))
            click.echo(f"  {role:<12} {graph.file} ({kind}, {megabytes:.2f} MB)")
            for arrow, tensors in (("<-", graph.inputs), ("->", graph.outputs)):
                for t in tensors:
                    click.echo(f"      {arrow} {t.name}: {t.dtype} [{', '.join(map(str, t.dims))}]")
            if graph.runtime == COREML:
                for line in show_package.graph_lines(found.path, graph):
                    click.echo(f"      {line}")
    if found.quality:
        from edgediff.cli import receipt

        for line in receipt.lines(found.quality):
            click.echo(line)
    click.echo(
        f"  total      {sum(f.bytes for f in found.files.values()) / 1e6:.2f} MB in {len(found.files)} files"
    )


def _facts(found: Any) -> dict[str, Any]:
    from edgediff.cli import show_package

    return {
        "path": str(found.path),
        "format_version": found.format_version,
        "family": found.family,
        "tasks": list(found.tasks),
        "origin": dict(found.origin),
        "scheduler": dict(found.scheduler),
        "defaults": {
            "sampler": found.defaults.sampler,
            "num_inference_steps": found.defaults.num_inference_steps,
            "guidance_scale": found.defaults.guidance_scale,
            "size": dict(found.defaults.size),
            "timesteps": found.defaults.timesteps,
            "recipe": found.defaults.recipe,
            "limits": {name: asdict(limit) for name, limit in found.defaults.limits.items()},
        },
        "graphs": {
            role: [
                {
                    "file": g.file,
                    "runtime": g.runtime,
                    "profile": g.profile,
                    "precision": g.precision,
                    "numerics": g.numerics,
                    **show_package.graph_facts(found.path, g),
                }
                for g in graphs
            ]
            for role, graphs in found.components.items()
        },
        "profiles": {device: list(names) for device, names in found.profiles.items()},
        "attention": [asdict(each) for each in found.attention],
        "quality": dict(found.quality) or None,
        "bytes": sum(f.bytes for f in found.files.values()),
        "files": len(found.files),
    }


def _table(found: Any, sampler: str | None, steps: int | None) -> str:
    from edgediff import sampler as samplers
    from edgediff import tables
    from edgediff.schedule import Request
    from edgediff.tasks import request as check

    defaults = found.defaults
    count = check.whole("steps", defaults.num_inference_steps if steps is None else steps, 1, check.MAX_STEPS)
    solver = samplers.find(found.scheduler, defaults.sampler if sampler is None else sampler)
    tokens = math.prod(check.latent_shape(found, 1, check.sizes(found, {}))[2:])
    return tables.dumps(tables.record(solver, solver.schedule(Request(count, tokens=tokens))))
