"""``edgediff compare``: bundles side by side, in pictures and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgediff.compare.figures import Figures

EXAMPLE = """\b
Examples:
  edgediff compare my-fp32 my-int8 my-int4 -o report
  edgediff compare my-fp32 my-int8 --prompts prompts.txt --seeds 0,1 -o report.html
"""


@click.command(epilog=EXAMPLE, short_help="Draw the same pictures with several bundles, side by side.")
@click.argument("bundles", metavar="BUNDLE_A BUNDLE_B [...]", nargs=-1, required=True)
@click.option("-o", "--output", default="compare", show_default=True, help="New folder, or FILE.html alone.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier comparison.")
@click.option("--prompts", "prompt_file", metavar="FILE", help="A prompt on each line.")
@click.option("--prompt", "texts", metavar="TEXT", multiple=True, help="One prompt; may be repeated.")
@click.option("--seeds", default="0", show_default=True, help="Seeds of each prompt, such as 0,1,2.")
@click.option("--steps", "--num-inference-steps", "steps", type=int, help="Instead of each bundle's own.")
@click.option("-H", "--height", type=int, help="Pixels, instead of the bundles' own.")
@click.option("-W", "--width", type=int, help="Pixels, instead of the bundles' own.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Turns of each bundle.")
@click.option("--device", default="auto", show_default=True, help="As for run.")
@click.option("--runtime", default="auto", show_default=True, help="Name a runtime outright.")
@click.option("-t", "--threads", type=int, help="Threads in a graph; the usable cores unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print the paths alone; no progress.")
def command(
    bundles: tuple[str, ...], output: str, overwrite: bool, prompt_file: str | None, texts: tuple[str, ...],
    seeds: str, steps: int | None, height: int | None, width: int | None, rounds: int, device: str,
    runtime: str, threads: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Draw the same prompts at equal seeds with every bundle, and say how far each is from BUNDLE_A.

    Each bundle draws as a user would run it, in turns, in a process of its own. Written are a page (all in
    one HTML file), a contact sheet, a plot of latency, closeness and size, and the figures as JSON.
    """
    from edgediff.bundle import Bundle
    from edgediff.cli.pull import bundle_path
    from edgediff.compare import asked, prompts, report
    from edgediff.compare import output as place
    from edgediff.prompt import read_prompt_file

    if prompt_file is not None and texts:
        raise click.UsageError("Give --prompts or --prompt, not both.")
    hushed = quiet or as_json
    opened = [(name, Bundle.open(bundle_path(name, hushed))) for name in bundles]
    out = place.checked(output, overwrite)
    words: Sequence[str] = texts or (
        prompts.usual([bundle for _, bundle in opened])
        if prompt_file is None
        else read_prompt_file(prompt_file)
    )
    order = asked.checked(
        opened, words, _seeds(seeds), steps=steps, height=height, width=width, rounds=rounds
    )
    say = None if hushed else lambda line: click.echo(line, err=True)
    options = {"device": device, "runtime": runtime, "threads": threads}
    made = report.compared(order, options, say)
    files = place.write(out, made.files(), overwrite)
    if as_json:
        click.echo(json.dumps({"outputs": [str(file) for file in files], **made.record()}))
        return
    for warning, letters in made.warnings().items():
        click.echo(f"edgediff: warning: {letters}: {warning}", err=True)
    for file in files:
        click.echo(str(file))
    if not quiet:
        click.echo(_table(made.found), err=True)


def _seeds(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--seeds: {text!r:.60} is no list of whole numbers, such as 0,1,2.") from None


def _table(found: Sequence[Figures]) -> str:
    """The figures in columns."""
    from edgediff.compare import units

    rows: list[tuple[str, ...]] = [("", "bundle", "size", "latency", "memory", "PSNR", "SSIM", "latents")]
    for each in found:
        own = each is found[0]
        close = ("reference", "", "") if own else (
            units.decibel(each.psnr_db), units.similarity(each.ssim), units.decibel(each.latents_psnr_db)
        )  # fmt: skip
        rows.append((
            each.entry.letter, units.visible(each.entry.name), units.size(each.bytes),
            units.seconds(each.latency), units.size(each.peak_rss_bytes), *close,
        ))  # fmt: skip
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(r, wide, strict=True)).rstrip() for r in rows)
