"""``edgediff verify``: every file against its sha256, then one pass of every graph."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import click

from edgediff.errors import CheckFailed, ResourceError, UnsupportedError


@click.command(short_help="Check a bundle's files, graphs and one pass of each.")
@click.argument("bundle", required=False)
@click.option("--device", default="auto", show_default=True, help="Where the graphs run.")
@click.option("--runtime", default="auto", show_default=True, help="What runs them; mil runs Core ML here.")
@click.option(
    "--numerics",
    is_flag=True,
    help="Draw a picture in float32 and see whether every value would fit half precision.",
)
@click.option("--memory", type=float, metavar="GB", help="With --numerics: the most memory it may take.")
@click.option("--record", is_flag=True, help="With --numerics: write what was found into the manifest.")
@click.option(
    "--quality",
    is_flag=True,
    help="Of a quantized bundle: measure again how far it is from its float parent.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    bundle: str | None, device: str, runtime: str, numerics: bool, memory: float | None, record: bool,
    quality: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compare every file of BUNDLE with its manifest, scan and load every graph, run each once, and compare
    with the golden values of its export.

    Ends with status 0, or with that of the first fault (3 and 4: see the error).
    """
    from edgediff import checks
    from edgediff.bundle import Bundle
    from edgediff.cli.pull import bundle_path
    from edgediff.pipeline import EMBEDDED

    if (record or memory is not None) and not numerics:
        raise click.UsageError("--memory and --record go with --numerics.")
    if quality and numerics:
        raise click.UsageError("--quality and --numerics are two checks; ask for one.")
    found = Bundle.open(EMBEDDED if bundle is None else bundle_path(bundle, as_json))
    if numerics:
        _numerics(found, memory, record, as_json)
        return
    if quality:
        _quality(found, device, runtime, as_json)
        return
    result = checks.check(found, device, runtime)
    if as_json:
        click.echo(json.dumps({"bundle": str(found.path), "ok": True, **result}))
        return
    compared = [share for share in result["graphs"].values() if share is not None]
    worst = f"within {max(compared):.1g} of the golden values" if compared else "there are no golden values"
    click.echo(f"{found.path}: {result['files']} files match, {len(result['graphs'])} graphs ran, {worst}")


def _quality(found: Any, device: str, runtime: str, as_json: bool) -> None:
    """Compare all files with the manifest, then what the bundle gives with what its float parent gave."""
    from edgediff import retrace
    from edgediff.cli import receipt

    found.verify()
    result = retrace.measure(found, device, report=receipt.say, runtime=runtime)
    floors = found.quality.get("floors") or {}
    reasons = retrace.below(result, floors)
    if as_json:
        told = {"bundle": str(found.path), "ok": not reasons, **result, "floors": floors, "below": reasons}
        click.echo(json.dumps(told))
    else:
        for line in receipt.table(result, found.quality, floors):
            click.echo(line)
    if reasons:
        raise CheckFailed(f"{found.path}: {'; '.join(reasons)}.")


def _numerics(found: Any, memory: float | None, record: bool, as_json: bool) -> None:
    """Run the look in a process of its own, with a bound on its memory; print what it found."""
    command = [sys.executable, "-m", "edgediff.export.numerics", str(found.path)]
    command += [] if memory is None else [str(int(memory * 1e9))]
    try:
        importlib.import_module("edgediff.export.numerics")
    except ImportError as error:
        raise UnsupportedError(
            f"--numerics needs more packages ({error}): pip install 'edgediff[export]'"
        ) from error
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        bound = "" if memory is None else f" with {memory:g} GB; allow more"
        raise ResourceError(f"{found.path}: the look at its numbers did not end well{bound}.") from None
    if "error" in told:
        raise CheckFailed(f"{found.path}: {told['error']}")
    proven = all(not each["over"] for each in told["findings"])
    if record:
        recorder = importlib.import_module("edgediff.export.record")
        recorder.record_numerics(found.path, {each["role"]: not each["over"] for each in told["findings"]})
    if as_json:
        click.echo(json.dumps({"bundle": str(found.path), "ok": proven, "numerics": told["findings"]}))
    else:
        for each in told["findings"]:
            state = "fits" if not each["over"] else "TOO LARGE: " + "; ".join(each["over"])
            click.echo(f"{each['role']:<20} largest {each['largest']:.4g} at {each['where']}: {state}")
    if not proven:
        raise CheckFailed(f"{found.path}: half precision cannot hold what some graphs compute.")
