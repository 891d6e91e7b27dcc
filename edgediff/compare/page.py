"""The comparison as one HTML file that needs nothing else: no network, no scripts, no other files.

Prompts, names, paths and receipts come from outside; all of them are escaped, and the page's own policy
forbids whatever could be loaded or run.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from edgediff import media, metadata
from edgediff.compare import style, units
from edgediff.compare.colours import heat
from edgediff.compare.figures import Figures
from edgediff.compare.sheet import SCALE, cell, scale_bar, scaled
from edgediff.compare.table import figures_table, table, text

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST_RECEIPT = 60_000
_WIDEST, _NARROWEST, _ROW = 256, 160, 1060  # pixels of a picture, and of all in a row

Facts = Mapping[str, Mapping[str, Any]]


def page(found: Sequence[Figures], draws: Sequence[tuple[str, int]], svg: str, facts: Facts) -> str:
    """Return the page. ``facts`` are its last sections: a title, then terms and what to say of them."""
    reference = found[0]
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(style.policy())}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{text(' · '.join(each.entry.name for each in found))}: edgediff compare</title>",
        f"<style>{style.SHEET}</style>\n</head>\n<body>\n<h1>edgediff compare</h1>",
        f"<p>Equal prompts and seeds; the reference is <b>A</b>, {text(reference.entry.name)}.</p>",
        "<h2>Figures</h2>", figures_table(found),
        "<h2>Latency, closeness and size</h2>", svg,
        "<h2>Pictures</h2>",
        f"<p>Beside each picture: how far it is from A's, {text(SCALE)}.</p>",
        f'<p>{_img(scale_bar(), "from pale (0) to dark violet (64 and more)")}</p>',
        _pictures(found, draws),
        *(_section(title, terms) for title, terms in facts.items()),
        *_receipts(found), "</body>\n</html>\n",
    ]  # fmt: skip
    return "\n".join(parts)


def _pictures(found: Sequence[Figures], draws: Sequence[tuple[str, int]]) -> str:
    heads = "".join(
        f'<th scope="col"><b>{e.entry.letter}</b> <bdi>{text(e.entry.name)}</bdi></th>' for e in found
    )
    most = max(_NARROWEST, min(_WIDEST, _ROW // (2 * len(found) - 1)))
    rows = []
    for i, (prompt, seed) in enumerate(draws):
        head = f"<div><bdi>{text(prompt)}</bdi></div><small>{i + 1}, seed {seed}</small>"
        cells = "".join(f"<td>{_drawn(each, i, most, each is found[0])}</td>" for each in found)
        rows.append(f'<tr><th scope="row">{head}</th>{cells}</tr>')
    return table("pictures", f'<th scope="col">Prompt</th>{heads}', rows)


def _drawn(each: Figures, i: int, most: int, own: bool) -> str:
    """A picture, its differences beside it, and how close it is."""
    from PIL import Image

    pixels, of = each.drawn.pictures[i], each.pairs[i]
    shown = cell(pixels.shape[1], pixels.shape[0], most)
    alt = f"picture {i + 1} of {each.entry.letter}"
    picture = _img(Image.fromarray(pixels), alt, shown, mark=True)
    if own:
        return f"{picture}<span>reference</span>"
    # Differences of large pictures in the size they are shown in, else they would weigh more than these.
    small = scaled(heat(of.difference), (min(shown[0], pixels.shape[1]), min(shown[1], pixels.shape[0])))
    told = f"PSNR {units.decibel(of.psnr_db)} &nbsp; SSIM {units.similarity(of.ssim)}"
    return f"{picture}{_img(small, f'{alt}: difference from A', shown)}<span>{told}</span>"


def _img(image: Image, alt: str, shown: tuple[int, int] | None = None, mark: bool = False) -> str:
    """A picture inside the page; ``mark`` says in its data that a model drew it."""
    data = base64.b64encode(media.encoded(image, "PNG", metadata.describe(None, mark=mark))).decode()
    width, height = image.size if shown is None else shown
    sharp = ' class="sharp"' if width > image.width else ""
    size = f'width="{width}" height="{height}"'
    return f'<img{sharp} {size} alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _section(title: str, terms: Mapping[str, Any]) -> str:
    told = "".join(f"<dt>{text(str(name))}</dt><dd>{text(str(value))}</dd>" for name, value in terms.items())
    return f"<h2>{text(title)}</h2>\n<dl>{told}</dl>"


def _receipts(found: Sequence[Figures]) -> list[str]:
    """What bundles say of themselves, as they say it."""
    parts = []
    for each in (e for e in found if e.receipt):
        told = json.dumps(dict(each.receipt), indent=2, ensure_ascii=False)
        lines = "\n".join(map(text, units.shortened(told, _LONGEST_RECEIPT).split("\n")))
        head = f"{each.entry.letter} {text(each.entry.name)}: its receipt, written at export"
        parts.append(f"<details><summary>{head}</summary><pre>{lines}</pre></details>")
    return ["<h2>Receipts</h2>", *parts] if parts else []
