"""The table of few-step recipes in docs/export.md. ``python -m benchmarks.recipes`` writes it."""

from __future__ import annotations

from pathlib import Path

from edgediff import sampler as samplers
from edgediff.export.recipes import RECIPES, Recipe

PAGE = Path(__file__).resolve().parent.parent / "docs" / "export.md"
BEGIN, END = "<!-- recipes: written by python -m benchmarks.recipes -->", "<!-- end of recipes -->"


def table() -> str:
    """Return the table as Markdown."""
    rows = ["| `--recipe` | sampler | steps | guidance | after |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*rows, *map(_row, RECIPES.values())])


def _row(recipe: Recipe) -> str:
    sampler = (
        "the model's own" if recipe.scheduler_class is None else samplers.name_of(recipe.scheduler_class)
    )
    extras = [f"{key.replace('_', ' ')} {value}" for key, value in recipe.settings.items()]
    if recipe.timesteps is not None:
        extras.append(f"timesteps {', '.join(map(str, recipe.timesteps))}")
    steps = f"{recipe.steps} ({_range(recipe.fewest, recipe.most)})"
    guidance = f"{recipe.guidance:g} ({_range(recipe.least_guidance, recipe.most_guidance)})"
    return f"| `{recipe.name}` | {', '.join([sampler, *extras])} | {steps} | {guidance} | {recipe.source} |"


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def page(text: str) -> str:
    """Return the page with the table in its place."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
