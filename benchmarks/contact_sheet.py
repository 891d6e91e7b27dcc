"""Contact sheets of a bundle: prompts by seeds, and prompts by number of steps. ``python -m
benchmarks.contact_sheet``.

Nothing is chosen by hand: the prompts below and seeds 0, 1, 2, ... as they come.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

import edgediff

PROMPTS = (
    "a red circle to the left of a blue square on a white background",
    "a large yellow star on a navy background",
    "a green triangle above a purple heart on a beige background",
    "a small orange cross in the top right on a gray background",
    "a cyan heart, a pink square and a blue circle on a black background",
    "a purple cross below a yellow square on a white background",
)
STEPS = (1, 2, 4, 8)
CELL, GAP, LABEL = 128, 6, 210


def main() -> None:
    """Draw both sheets beside each other and save them as one PNG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", help="a bundle instead of the embedded model")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/contact_sheet.png"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    pipe = edgediff.load(options.model)
    seeds = range(options.seeds)
    columns = [f"seed {s}" for s in seeds] + [f"{n} step{'s' * (n > 1)}" for n in STEPS]
    rows = []
    for prompt in PROMPTS:
        pictures = [pipe(prompt, seed=s).images[0] for s in seeds]
        pictures += [pipe(prompt, seed=0, num_inference_steps=n).images[0] for n in STEPS]
        rows.append(pictures)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet(PROMPTS, columns, rows).save(options.output, optimize=True)
    print(options.output)


def sheet(prompts: tuple[str, ...], columns: list[str], rows: list[list[Any]]) -> Any:
    """Return one picture: a row per prompt, its text at the left, a label above each column."""
    from PIL import Image, ImageDraw

    width = LABEL + len(columns) * (CELL + GAP)
    made = Image.new("RGB", (width, 22 + len(rows) * (CELL + GAP)), "white")
    pen = ImageDraw.Draw(made)
    for i, name in enumerate(columns):
        pen.text((LABEL + i * (CELL + GAP) + CELL // 2, 11), name, fill="black", anchor="mm", font_size=13)
    for j, (prompt, pictures) in enumerate(zip(prompts, rows, strict=True)):
        top = 22 + j * (CELL + GAP)
        text = "\n".join(textwrap.wrap(prompt, 26))
        pen.multiline_text((8, top + CELL // 2), text, fill="black", anchor="lm", font_size=14)
        for i, picture in enumerate(pictures):
            place = (LABEL + i * (CELL + GAP), top)
            made.paste(picture.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS), place)
    return made


if __name__ == "__main__":
    main()
