"""What is drawn to calibrate a model: edgediff's own captions, a file's lines, or the model's own list."""

from __future__ import annotations

from pathlib import Path

from edgediff.errors import InputError
from edgediff.export.sources import Source
from edgediff.prompt import read_prompt_file

FILE = "calibration.txt"
"""A model's own list, beside its ``model_index.json``, where its prompts are a language of their own."""
EVALUATION = "evaluation.txt"
"""Likewise, the prompts that receipts are measured with."""

CAPTIONS = (
    "a lighthouse on a rocky coast at dusk, waves breaking below",
    "portrait of an old fisherman with a gray beard, soft window light",
    "a bowl of ramen with a halved egg and spring onions, seen from above",
    "watercolor painting of a village street in the rain",
    "two children flying a yellow kite on a wide beach",
    "a black cat asleep on a pile of books",
    "macro photograph of dew on a spider's web, blurred green background",
    "an astronaut planting sunflowers on a red desert planet, digital art",
    "isometric drawing of a small bakery, pastel colors",
    "snow-covered pine forest under a full moon",
    "a crowded market hall with hanging lanterns",
    "charcoal sketch of a running horse",
    "a vintage bicycle leaning against a blue wooden door",
    "close-up of a human eye with a city skyline reflected in it",
    "low poly fox on a white background",
    "a glass teapot with blooming tea, studio photograph, dark background",
    "aerial view of terraced rice fields in the morning mist",
    "oil painting of a storm over a wheat field, thick brush strokes",
    "a robot repairing a pocket watch, warm lamplight, highly detailed",
    "a red fire engine parked in front of a brick station",
    "minimalist poster of a mountain and its reflection in a lake",
    "an elderly couple dancing in a kitchen, black and white photograph",
    "underwater photo of a sea turtle above a coral reef",
    "a medieval castle made of candy, children's book illustration",
    "street photograph at night, neon signs, wet asphalt",
    "a hummingbird drinking from a hibiscus flower, frozen in flight",
    "blueprint of a flying machine with labels in fine white lines",
    "a wooden chess set in the middle of a game, shallow depth of field",
    "stained glass window showing a sailing ship",
    "a giraffe looking over a garden fence, funny, bright daylight",
    "abstract composition of overlapping circles in orange and teal",
    "an empty subway car at three in the morning",
    "a plate of grilled vegetables beside a loaf of rye bread",
    "pixel art of a wizard's tower on a floating island",
    "a woman in a green raincoat walking a small dog",
    "desert canyon with a winding river, golden hour, wide angle",
    "ukiyo-e print of cranes over a frozen lake",
    "a workbench covered with plane shavings and hand tools",
    "a futuristic train station with glass arches and hanging gardens",
    "three hot air balloons over vineyards at sunrise",
    "clay figurine of a smiling hedgehog, soft studio light",
    "a violin on a velvet chair in an abandoned theater",
    "infographic style drawing of the phases of the moon",
    "a basketball player mid jump, motion blur, stadium lights",
    "cherry trees in bloom along a canal, paper boats on the water",
    "a dragon curled around a mountain peak, epic fantasy, dramatic clouds",
    "satellite image of a river delta",
    "a simple white mug on a gray table",
)
"""For models of natural images: subjects, media, light and lengths of many kinds."""


def read_prompts(path: Path) -> list[str]:
    """The prompts of a calibration file: UTF-8 text, one on each line, blank lines skipped, at most 64.

    Raises:
        InputError: it is no such file, is too large, or a line is no prompt.
    """
    return read_prompt_file(path)


def own_prompts(source: Source, file: str = FILE) -> list[str] | None:
    """The list that a model folder carries, for its own calibration unless named; None where it has none.

    Raises:
        InputError: the file is there and is no list of prompts.
    """
    found = source.where / file  # a model in a single file has no folder: this names nothing there
    return read_prompts(found) if found.is_file() else None


def own_files(source: Source) -> dict[str, bytes]:
    """The lists that a model folder carries, for its bundle: whoever exports the bundle again needs them."""
    found = {}
    for name in (FILE, EVALUATION):
        path = source.where / name
        if path.is_file():
            try:
                read_prompts(path)
            except InputError:  # a file of another kind, by chance of this name
                continue
            found[name] = path.read_bytes()
    return found
