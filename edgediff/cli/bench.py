"""``edgediff bench``: where time and memory of a picture go here, and how far that is from the limit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgediff.bench.record import Record

EXAMPLE = """\b
Examples:
  edgediff bench
  edgediff bench -m my-bundle --device openvino --precision bf16 --steps 4 --html report.html
  edgediff bench -m my-bundle --json new.json --against old.json --threshold 5
"""


@click.command(
    epilog=EXAMPLE, short_help="Measure a bundle here: time, memory, work and the machine's limits."
)
@click.option("-m", "--model", metavar="BUNDLE", help="Folder or hub id; the embedded model unless given.")
@click.option("--prompt", metavar="TEXT", help="What to draw; a text of usual length unless given.")
@click.option("--device", default="auto", show_default=True, help="As for run.")
@click.option("--runtime", default="auto", show_default=True, help="Name a runtime outright.")
@click.option("--precision", metavar="fp32|bf16", help="As for run.")
@click.option("-t", "--threads", type=int, help="Threads in a graph; the usable cores unless given.")
@click.option("--size", metavar="WIDTHxHEIGHT", help="Pixels; the bundle's own unless given.")
@click.option("-H", "--height", type=int, help="Pixels, instead of --size.")
@click.option("-W", "--width", type=int, help="Pixels, instead of --size.")
@click.option("--steps", "--num-inference-steps", "steps", type=int, help="Instead of the bundle's own.")
@click.option("--guidance-scale", "--cfg-scale", "guidance_scale", type=float, help="1 means none.")
@click.option("-b", "--batch", type=int, help="Pictures drawn at once.")
@click.option("--sampler", help="Instead of the bundle's own.")
@click.option("--decoder", help="As for run.")
@click.option("--tile-decode", metavar="auto|off|PIXELS", help="As for run.")
@click.option("--step-cache", type=int, metavar="N", help="As for run.")
@click.option("--memory", metavar="AMOUNT", help="As for run.")
@click.option("--runs", type=int, metavar="N", help="Pictures that count; 3 to 20, by the time they take.")
@click.option("--warmup", type=int, default=1, show_default=True, help="Short pictures that do not count.")
@click.option("--cold", type=int, metavar="N", help="New processes of each kind; 0 for none.")
@click.option("--no-limits", is_flag=True, help="Do not measure the machine's limits.")
@click.option(
    "--json",
    "as_json",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="The record; on stdout without FILE.",
)
@click.option(
    "--csv", "as_csv", is_flag=False, flag_value="-", metavar="[FILE]", help="A row for each figure."
)
@click.option(
    "--md", "as_md", is_flag=False, flag_value="-", metavar="[FILE]", help="Tables for an issue report."
)
@click.option("--html", "as_html", metavar="FILE", help="A page with charts, all in one file.")
@click.option("--trace", "as_trace", metavar="FILE", help="Spans and nodes for ui.perfetto.dev.")
@click.option(
    "--with", "others", metavar="OLD.json", multiple=True, help="Records to show beside it in --html."
)
@click.option("--against", metavar="OLD.json", help="End with status 3 if this is slower than that record.")
@click.option("--threshold", type=float, metavar="PERCENT", help="What --against lets pass; 10 unless given.")
@click.option("--force", is_flag=True, help="Let --against compare what was measured otherwise.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    model: str | None, prompt: str | None, device: str, runtime: str, precision: str | None,
    threads: int | None, size: str | None, height: int | None, width: int | None, steps: int | None,
    guidance_scale: float | None, batch: int | None, sampler: str | None, decoder: str | None,
    tile_decode: str | None, step_cache: int | None, memory: str | None,
    runs: int | None, warmup: int, cold: int | None, no_limits: bool, as_json: str | None,
    as_csv: str | None, as_md: str | None, as_html: str | None, as_trace: str | None,
    others: tuple[str, ...], against: str | None, threshold: float | None, force: bool, overwrite: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Measure a bundle on this machine: what each part of a picture takes, warm and from a cold start, how
    much memory, how much it computes, and what share of the machine's own limits that is.

    Without -m the embedded model is measured. Pictures are drawn in processes of their own, one at a time;
    leave the machine alone meanwhile.
    """
    from edgediff.bench import files, measure
    from edgediff.bench.against import THRESHOLD
    from edgediff.bundle import Bundle
    from edgediff.cli.pull import bundle_path
    from edgediff.pipeline import EMBEDDED

    printed = [name for name, to in (("--json", as_json), ("--csv", as_csv), ("--md", as_md)) if to == "-"]
    if len(printed) > 1:
        raise click.UsageError(
            f"{' and '.join(printed)}: one of them can go to stdout; name files for others."
        )
    _check_beside(against, threshold, force, others, as_html)
    outputs = {
        name: files.checked(to, overwrite)
        for name, to in (
            ("json", as_json),
            ("csv", as_csv),
            ("md", as_md),
            ("html", as_html),
            ("trace", as_trace),
        )
        if to is not None and to != "-"
    }
    if len({out.absolute() for out in outputs.values()}) < len(outputs):
        raise click.UsageError("two outputs have the same name; name them apart.")
    old = None if against is None else _read(against)
    beside = [_read(other) for other in others]
    high, wide = _size(size, height, width)
    hushed = quiet or bool(printed)
    bundle = Bundle.open(EMBEDDED if model is None else bundle_path(model, hushed))
    arguments = {
        "num_inference_steps": steps, "guidance_scale": guidance_scale, "height": high, "width": wide,
        "num_images_per_prompt": batch, "sampler": sampler, "decoder": decoder,
        "tile_decode": tile_decode, "step_cache": step_cache,
    }  # fmt: skip
    options = {
        "device": device,
        "runtime": runtime,
        "precision": precision,
        "threads": threads,
        "memory": memory,
    }
    order = measure.checked(
        bundle, measure.PROMPT if prompt is None else prompt, arguments=arguments, options=options,
        runs=runs, warmup=warmup, cold=cold, limits=not no_limits,
    )  # fmt: skip
    limit = THRESHOLD if threshold is None else threshold
    if old is not None:
        measure.check_against(order, old, limit, force)
    record = measure.measured(order, None if hushed else lambda line: click.echo(line, err=True))
    _finish(record, order.told(), printed, outputs, beside, old, limit, force, quiet)


def _check_beside(
    against: str | None, threshold: float | None, force: bool, others: tuple[str, ...], html: str | None
) -> None:
    if against is None and (threshold is not None or force):
        raise click.UsageError("--threshold, --force: give --against too.")
    if others and html is None:
        raise click.UsageError("--with: give --html too.")


def _size(size: str | None, height: int | None, width: int | None) -> tuple[int | None, int | None]:
    """Height and width, from either way of saying them."""
    if size is None:
        return height, width
    wide, cross, high = size.lower().partition("x")
    if height is not None or width is not None or not (cross and wide.isdecimal() and high.isdecimal()):
        raise click.UsageError(
            f"--size: {size!r:.30} is no WIDTHxHEIGHT, or stands beside --height or --width."
        )
    return int(high), int(wide)


def _read(name: str) -> Record:
    from edgediff.bench.record import Record
    from edgediff.errors import InputError

    try:
        content = Path(name).read_bytes()
    except OSError as error:
        raise InputError(
            f"{name}: it cannot be read ({error.strerror}); give what bench --json wrote."
        ) from error
    return Record.from_json(content, name)


def _finish(
    record: Record, order: Mapping[str, Any], printed: list[str], outputs: Mapping[str, Path],
    beside: Iterable[Record], old: Record | None, threshold: float, force: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write what was asked for, print one form of it, and compare."""
    from edgediff.bench import files, lines
    from edgediff.errors import CheckFailed

    compared = None
    if old is not None:
        from edgediff.bench import against

        compared = against.compared(old, record, threshold, force)
    makes = {
        "json": lambda: record.to_json(indent=2) + "\n",
        "csv": lambda: lines.comma_separated(record),
        "md": lambda: lines.markdown(record),
        "html": lambda: _page(record, beside, compared),
        "trace": lambda: _trace(order, record),
    }
    for name, out in outputs.items():
        files.write(out, makes[name]())
    if printed == ["--json"]:
        told = record.stored() if compared is None else {**record.stored(), "against": compared.record()}
        click.echo(json.dumps(told))
    elif printed:
        click.echo(makes[printed[0][2:]](), nl=False)
    elif quiet:
        for out in outputs.values():
            click.echo(str(out))
    else:
        click.echo(lines.text(record))
    if compared is not None:
        if not printed:
            click.echo(f"\n{compared.table()}")
        if compared.slower:
            raise CheckFailed(
                f"slower than {old.made if old else ''} by more than {compared.threshold:g} %; see above."
            )


def _page(record: Record, beside: Iterable[Record], compared: Any) -> str:
    from edgediff.bench import html

    return html.page([record, *beside], compared)


def _trace(order: Mapping[str, Any], record: Record) -> str:
    from edgediff.bench import traced

    return json.dumps(traced.trace(order, record))
