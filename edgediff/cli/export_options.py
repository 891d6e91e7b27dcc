"""Options that every kind of export has: what is exported, and how the command speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Any], Any]

PARTS = ("vae", "unet", "text_encoder", "text_encoder_2")
"""What another file or folder can replace."""


def _all(decorators: Iterable[Decorator]) -> Callable[[Command], Command]:
    """Decorators in the order in which help shows them."""
    listed = list(decorators)
    return lambda function: reduce(lambda made, each: each(made), reversed(listed), function)


model_options = _all(
    [
        click.option(
            "-m",
            "--model",
            required=True,
            metavar="MODEL",
            help="A folder, a .safetensors file, or a name on the hub (ORG/NAME[@REVISION]).",
        ),
        click.argument("out", metavar="OUT"),
    ]
)
"""What is exported, and where to."""

source_options = _all(
    [
        click.option("--variant", metavar="NAME", help="Which weights of a folder to read: fp16, bf16, ..."),
        click.option("--revision", metavar="REV", help="Branch, tag or commit of a model on the hub."),
        click.option("--token", help="The hub's token, for gated models; else that of the hub's own client."),
        *(
            click.option(
                "--" + name.replace("_", "-"), name, metavar="PATH", help=f"Take the {name} from here."
            )
            for name in PARTS
        ),
        click.option(
            "--controlnet",
            "controlnets",
            multiple=True,
            metavar="PATH",
            help="Add a ControlNet; may be given several times.",
        ),
        click.option("--tiny-decoder", metavar="PATH", help="Add the decoder of this AutoencoderTiny."),
        click.option("--tokenizer", metavar="FOLDER", help="Take the tokenizer's files from here."),
        click.option(
            "--lora",
            "loras",
            multiple=True,
            metavar="FILE[:SCALE]",
            help="Add an adapter to the weights; may be given several times.",
        ),
        click.option(
            "--recipe",
            metavar="NAME",
            help="How a few-step model is drawn: lcm, lcm-lora, turbo, lightning-4, hyper-8, tcd, sdxs, "
            "dmd2, ...; recognised where the model says so; none forbids it.",
        ),
        click.option(
            "--prediction-type",
            type=click.Choice(["epsilon", "v_prediction", "sample"]),
            help="What a single file's network predicts, where the file does not say.",
        ),
    ]
)
"""Which weights, and what is put in the place of parts."""

output_options = _all(
    [
        click.option(
            "--dry-run", is_flag=True, help="Write nothing; say which files and how much memory it takes."
        ),
        click.option("--overwrite", is_flag=True, help="Replace OUT if it exists."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="Print the path alone."),
    ]
)
"""What happens to OUT, and what is printed."""


def parts_of(given: dict[str, Any]) -> dict[str, str]:
    """Take the replaced parts out of a command's options."""
    return {name: path for name in PARTS if (path := given.pop(name)) is not None}
