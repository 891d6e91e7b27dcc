"""Tables of the page, and the one with all figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgediff.compare import units
from edgediff.compare.figures import Figures

_HEADS = (
    ("Bundle", ""), ("Draws", ""), ("Size", "all files"), ("Latency", "median, range"),
    ("Ready after", "load and one step"), ("Peak memory", "of its process"), ("PSNR", "all, worst"),
    ("SSIM", "mean, worst"), ("Final latents", "PSNR"), ("Pareto front", ""),
)  # fmt: skip


def text(plain: str) -> str:
    """Return text from outside as HTML shows it."""
    return escape(units.visible(plain))


def table(kind: str, heads: str, rows: Sequence[str]) -> str:
    """Return a table of rows that are HTML already; it scrolls by itself where it is too wide."""
    lines = (
        f'<div class="wide"><table class="{kind}">', f"<thead><tr>{heads}</tr></thead>", "<tbody>", *rows,
        "</tbody></table></div>",
    )  # fmt: skip
    return "\n".join(lines)


def figures_table(found: Sequence[Figures]) -> str:
    """Return the figures of all bundles, a row each."""
    heads = "".join(f'<th scope="col">{h}<small>{s}</small></th>' for h, s in _HEADS)
    return table("figures", heads, [f"<tr>{_row(each, found[0])}</tr>" for each in found])


def _row(each: Figures, reference: Figures) -> str:
    call, own = each.entry.call, each is reference
    spread = f"{units.seconds(min(each.seconds))} to {units.seconds(max(each.seconds))}"
    name = f"<b>{each.entry.letter}</b> {text(each.entry.name)}<small>{text(_forms(each))}</small>"
    cells = [
        (f"{len(call.schedule.hops)} steps of {call.solver.name}", f"guidance {call.guidance_scale:g}"),
        (units.size(each.bytes), _share(each.bytes, reference.bytes, own)),
        (units.seconds(each.latency), f"{_comma(_share(each.latency, reference.latency, own))}{spread}"),
        (units.seconds(each.started), ""),
        (units.size(each.peak_rss_bytes), _share(each.peak_rss_bytes, reference.peak_rss_bytes, own)),
        ("reference", "") if own else (units.decibel(each.psnr_db), units.decibel(each.worst_psnr_db)),
        ("", "") if own else (units.similarity(each.ssim), units.similarity(each.worst_ssim)),
        ("", "") if own else (units.decibel(each.latents_psnr_db), ""),
        ("yes" if each.on_front else "no", ""),
    ]
    told = "".join(f"<td>{text(first)}<small>{text(second)}</small></td>" for first, second in cells)
    return f'<th scope="row" class="name">{name}</th>{told}'


def _forms(each: Figures) -> str:
    """The forms of graphs that ran, each once."""
    return ", ".join(dict.fromkeys(profile or provider for provider, profile in each.drawn.graphs.values()))


def _share(value: float | None, of: float | None, own: bool) -> str:
    return "" if own or value is None or not of else f"{value / of:.2f}x"


def _comma(text: str) -> str:
    return f"{text}, " if text else ""
