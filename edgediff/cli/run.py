"""``edgediff run``: a prompt, and perhaps a picture, becomes a picture."""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgediff.cli.refine import Refiner

EXAMPLE = """\b
Examples:
  edgediff run "a red circle to the left of a blue square on a white background" -o out.png
  edgediff run "a cat" -m my-bundle --steps 20 --guidance-scale 7.5 -n "blurry" -s 42
  edgediff run "a cat, oil painting" -m my-bundle -i photo.jpg --strength 0.6 --fit crop
  edgediff run "make it winter" -m my-instruct-bundle -i photo.png --image-guidance-scale 1.5
  edgediff run "a house" -m my-control-bundle --control edges.png --control-end 0.8
  edgediff run "a red hat" -m my-bundle -i photo.png --mask hat.png --keep-unmasked
  edgediff run "a small green star on a white background" -b 4 --grid sheet.png
"""


@click.command(epilog=EXAMPLE, short_help="Draw a picture from a prompt.")
@click.argument("prompt", required=False)
@click.option("-m", "--model", metavar="BUNDLE", help="Folder or hub id; the embedded model unless given.")
@click.option("-o", "--output", default="out.png", show_default=True, help="PNG, JPEG or WebP file to write.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--prompt-file", metavar="FILE", help="A prompt on each line, instead of PROMPT.")
@click.option("-n", "--negative-prompt", help="What to keep away from (needs guidance above 1).")
@click.option("--prompt-2", metavar="TEXT", help="Another text for the second text encoder (SDXL).")
@click.option("--negative-prompt-2", metavar="TEXT", help="Likewise, beside --negative-prompt.")
@click.option("--prompt-syntax", help="plain (the default), or a1111: (word:1.2), BREAK, long prompts.")
@click.option("--clip-skip", type=int, help="Leave out that many of the text encoder's last layers.")
@click.option("--steps", "--num-inference-steps", "steps", type=int, help="Denoising steps, 1 to 1000.")
@click.option("--guidance-scale", "--cfg-scale", "guidance_scale", type=float, help="1 means none.")
@click.option("--guidance-rescale", type=float, help="0 (the default) to 1.")
@click.option("--guidance-interval", metavar="LOW,HIGH", help="Guide in these shares of the steps alone.")
@click.option("--step-cache", type=int, metavar="N", help="Run the whole network at every N-th step.")
@click.option("--decoder", type=click.Choice(["full", "tiny"]), help="Which decoder, where there are two.")
@click.option("--tile-decode", metavar="auto|off|PIXELS", help="Decode in tiles of so many pixels a side.")
@click.option("-s", "--seed", type=int, help="0 to 4294967295; random, and reported, unless given.")
@click.option("--noise", help="torch (the default), philox (as on an NVIDIA card) or numpy.")
@click.option("-b", "--num-images-per-prompt", "count", type=int, help="Pictures of each prompt.")
@click.option("--grid", "grid_file", metavar="FILE", help="Also write all pictures as one.")
@click.option("-H", "--height", type=int, help="Pixels.")
@click.option("-W", "--width", type=int, help="Pixels.")
@click.option("--sampler", help="ddim, euler, euler_ancestral, dpmpp_2m_karras, unipc, lcm, ...")
@click.option("--eta", type=float, help="Share of fresh noise, 0 to 1, for samplers that take one.")
@click.option("-i", "--image", metavar="FILE", help="Start from, or change, this picture.")
@click.option("--mask", "mask_image", metavar="FILE", help="Draw anew what is white in it; needs --image.")
@click.option("--strength", type=float, help="0 to 1: how much of the picture is drawn anew.")
@click.option("--image-guidance-scale", type=float, help="What an instruction keeps of --image (1.5).")
@click.option("--control", "control_image", metavar="FILE", multiple=True, help="Steer by this picture.")
@click.option("--control-scale", type=float, multiple=True, help="How much --control counts; 1 unless given.")
@click.option("--control-start", type=float, multiple=True, help="Share of the steps from which it counts.")
@click.option("--control-end", type=float, multiple=True, help="Share of the steps up to which it counts.")
@click.option("--guess-mode", is_flag=True, help="Let --control alone say what is drawn.")
@click.option("--refiner", metavar="BUNDLE", help="Let this model (SDXL's refiner) finish the picture.")
@click.option("--refiner-start", type=float, help="Share of the steps after which it does; 0.8 unless given.")
@click.option("--fit", help="resize, crop or fill a picture of another size; without it that is an error.")
@click.option("--background", help="Colour behind a picture's transparent pixels.")
@click.option("--mask-blur", type=float, help="Radius in pixels by which the mask's edge is softened.")
@click.option("--padding-mask-crop", type=int, help="Draw the region around the mask alone, so much wider.")
@click.option("--keep-unmasked", is_flag=True, help="Leave what is black in the mask as it is, to the byte.")
@click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, ..., or PART=DEVICE,PART=DEVICE."
)
@click.option("--precision", help="fp32 (the default) or bf16, or PART=PRECISION,PART=PRECISION.")
@click.option("--runtime", default="auto", show_default=True, help="Name a runtime outright.")
@click.option("-t", "--threads", type=int, help="Threads in a graph; the usable cores unless given.")
@click.option("--memory", metavar="AMOUNT", help="The most that the whole run may take: 1.5GB, 800MB, ...")
@click.option("--no-cache", is_flag=True, help="Keep and read no compiled graphs (see `edgediff cache`).")
@click.option("--no-metadata", is_flag=True, help="Write no prompt and no parameters into the file.")
@click.option("--strict", is_flag=True, help="End with status 3 if a picture is a single flat colour.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print the paths alone; no progress.")
def command(
    prompt: str | None, model: str | None, output: str, overwrite: bool, prompt_file: str | None,
    grid_file: str | None, refiner: str | None, refiner_start: float | None, device: str, runtime: str,
    precision: str | None, threads: int | None, memory: str | None, no_cache: bool, no_metadata: bool,
    strict: bool, as_json: bool, quiet: bool, **given: Any,
) -> None:  # fmt: skip
    """Draw PROMPT and write the picture to a file. Without -m the embedded model draws it."""
    began = time.perf_counter()
    from edgediff import media, tasks
    from edgediff.cli.pull import bundle_path
    from edgediff.cli.refine import decoded, walked
    from edgediff.errors import CheckFailed
    from edgediff.pipeline import load
    from edgediff.prompt import read_prompt_file

    if (prompt is None) == (prompt_file is None):
        raise click.UsageError("Give a PROMPT, or --prompt-file.")
    prompts = [prompt] if prompt is not None else read_prompt_file(str(prompt_file))
    named = None if model is None else bundle_path(model, quiet or as_json)
    options: dict[str, Any] = {
        "device": device, "runtime": runtime, "threads": threads, "precision": precision,
        "cache": False if no_cache else None, "memory": memory,
    }  # fmt: skip
    if memory is not None and refiner is not None:
        raise click.UsageError("--memory: a run with --refiner cannot be budgeted.")
    pipe = load(named, **options)
    later = _refiner(refiner, refiner_start, options, quiet or as_json)
    over = None if later is None else later.checked(pipe.bundle, prompts, _arguments(given))
    asked = tasks.checked(pipe.bundle, prompts, **_arguments(given)) if over is None else over.first
    files = media.checked_outputs(output, asked.call.batch, overwrite, size=_size(asked))
    sheet = None if grid_file is None else media.checked_output(grid_file, overwrite)
    _say_what_is_lost(given["image"])
    progress = not quiet and not as_json and sys.stderr is not None and sys.stderr.isatty()
    _say_where(pipe, quiet or as_json)
    x = walked(pipe, asked, progress)
    done = None if later is None or over is None else later.finish(over, pipe, x, progress)
    pictures = tasks.finished(asked, decoded(pipe, asked, x, progress) if done is None else done.pictures)
    images = media.to_pil(pictures)
    flat = media.suspicious(pictures)
    if flat is not None:
        warnings.warn(f"suspicious output: {flat}.", stacklevel=1)
    record = _record(pipe, asked, files, images, time.perf_counter() - began)
    if done is not None:
        done.note(record)
    for i, (image, file) in enumerate(zip(images, files, strict=True)):
        media.save(image, file, _metadata(record, asked, i, no_metadata))
    if sheet is not None:
        from edgediff.grids import grid

        media.save(grid(images), sheet, _metadata(record, asked, 0, no_metadata))
    _print(record, as_json, quiet)
    if strict and flat is not None:
        raise CheckFailed(f"{files[0]}: {flat}; written all the same.")


def _refiner(model: str | None, start: float | None, options: dict[str, Any], quiet: bool) -> Refiner | None:
    """The model that finishes the picture, opened; None unless one is named."""
    if model is None:
        if start is not None:
            raise click.UsageError("--refiner-start: give --refiner too.")
        return None
    from edgediff.cli.pull import bundle_path
    from edgediff.cli.refine import Refiner
    from edgediff.pipeline import load

    return Refiner(load(bundle_path(model, quiet), **options), start)


def _say_where(pipe: Any, quiet: bool) -> None:
    """Say what the device ``auto`` is, where that was not plain; a warning says it where pictures differ."""
    choice = pipe.choice
    if choice is not None and choice.measured and not choice.coarse and not quiet:
        click.echo(f"edgediff: {choice}", err=True)


def _say_what_is_lost(image: str | None) -> None:
    """Warn of marks of origin that the picture carries and that the result, a new picture, cannot."""
    if image is None:
        return
    from edgediff.pictures import provenance

    carried = provenance(image)
    if carried is not None:
        warnings.warn(
            f"{image} says where it comes from ({carried}); the result is marked as made by a model from a "
            "picture, but does not carry that on.",
            stacklevel=2,
        )


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, under the names that tasks take; the rest is left to their defaults."""
    names = {
        "steps": "num_inference_steps",
        "count": "num_images_per_prompt",
        "control_scale": "controlnet_conditioning_scale",
        "control_start": "control_guidance_start",
        "control_end": "control_guidance_end",
    }
    found = {
        names.get(name, name): _alone(value)
        for name, value in given.items()
        if value is not None and value is not False and value != ()
    }
    if "guidance_interval" in found:
        found["guidance_interval"] = _pair(found["guidance_interval"])
    of_pictures = {"strength", "image_guidance_scale"} & found.keys()
    if "control_image" not in found:
        of_pictures |= {"fit", "background"} & found.keys()
    of_masks = {"mask_blur", "padding_mask_crop", "keep_unmasked"} & found.keys()
    for needed, options in (("image", of_pictures), ("mask_image", of_masks)):
        if options and needed not in found:
            flags = ", ".join("--" + name.replace("_", "-") for name in sorted(options))
            raise click.UsageError(f"{flags}: give --{needed.removesuffix('_image')} too.")
    if "control_image" not in found:
        flags = ", ".join(
            "--" + name.replace("_", "-")
            for name in ("control_scale", "control_start", "control_end", "guess_mode")
            if given.get(name)
        )
        if flags:
            raise click.UsageError(f"{flags}: give --control too.")
    return found


def _pair(text: str) -> tuple[float, float]:
    """LOW,HIGH as numbers."""
    try:
        low, high = (float(each) for each in text.split(","))
    except ValueError:
        raise click.UsageError(
            f"--guidance-interval {text!r}: give two shares of the steps, as 0.2,0.8."
        ) from None
    return low, high


def _alone(value: Any) -> Any:
    """What was given once, without the tuple around it."""
    if not isinstance(value, tuple):
        return value
    return value[0] if len(value) == 1 else list(value)


def _size(asked: Any) -> tuple[int, int]:
    """Height and width of the files to come: those of the original, where results are laid over it."""
    original = getattr(asked, "original", None)
    if original is not None:
        height, width = original.pictures[0].shape[:2]
        return height, width
    return asked.call.size["height"], asked.call.size["width"]


def _metadata(record: dict[str, Any], asked: Any, index: int, bare: bool) -> Any:
    """What goes into the file of one picture; the mark that says how it was made is always there."""
    from edgediff import metadata

    parameters = None
    if not bare:
        parameters = {**record["parameters"], **_own(asked, index)}
    return metadata.describe(parameters, composite=hasattr(asked, "pictures"))


def _own(asked: Any, index: int) -> dict[str, Any]:
    """The prompt and the place of one picture of a batch."""
    call = asked.call
    which = index // call.per_prompt
    seed = call.seed[index] if isinstance(call.seed, tuple) else call.seed
    return {
        "prompt": call.texts.prompts[which],
        "negative_prompt": call.texts.negatives[which] if call.texts.negatives else None,
        "seed": seed,
        "index": index,
        "batch": call.batch,
    }


def _record(pipe: Any, asked: Any, files: list[Path], images: list[Any], seconds: float) -> dict[str, Any]:
    call = asked.call
    parameters = {
        "task": type(asked).__module__.rpartition(".")[2].replace("call", "text2image"),
        "prompt": call.texts.prompts[0] if len(call.texts.prompts) == 1 else list(call.texts.prompts),
        "negative_prompt": call.texts.negatives[0] if call.texts.negatives else None,
        "seed": call.seed,
        "noise": call.noise,
        "num_inference_steps": call.steps.steps,
        "guidance_scale": call.guidance_scale,
        "guidance_rescale": call.guidance_rescale,
        "sampler": call.solver.name,
        **_second(call.texts),
        "prompt_syntax": call.texts.syntax,
        "clip_skip": call.texts.clip_skip,
        **_left_out(call.savings),
        "strength": call.strength,
        **_steered(asked),
        "height": images[0].height,
        "width": images[0].width,
        "model": pipe.bundle.origin.get("source"),
    }
    return {
        "output": str(files[0]),
        "outputs": [str(file) for file in files],
        "parameters": parameters,
        "steps": len(call.schedule.hops),
        "providers": {role: info.provider for role, info in pipe.infos().items()},
        "choice": None if pipe.choice is None else str(pipe.choice),
        "compiled": {role: info.cache for role, info in pipe.infos().items() if info.cache},
        "timings": {name: round(value, 4) for name, value in pipe.timings.items()},
        "memory": pipe.memory,
        "seconds": round(seconds, 4),
    }


def _left_out(savings: Any) -> dict[str, Any]:
    """What was saved on, where anything was."""
    found: dict[str, Any] = {}
    if savings.interval is not None:
        found["guidance_interval"] = list(savings.interval)
    if savings.every > 1:
        found["step_cache"] = savings.every
    if savings.decoder != "full":
        found["decoder"] = savings.decoder
    if isinstance(savings.tile, int):
        found["tile_decode"] = savings.tile
    return found


def _second(texts: Any) -> dict[str, Any]:
    """What a second text encoder read, where that was something else."""
    found = {"prompt_2": texts.prompts_2, "negative_prompt_2": texts.negatives_2}
    return {name: list(words) for name, words in found.items() if words is not None}


def _denoised(providers: dict[str, str]) -> str | None:
    return providers.get("denoiser", providers.get("controlled_denoiser"))


def _steered(asked: Any) -> dict[str, Any]:
    """What was said of pictures that steer; nothing where there are none."""
    found: dict[str, Any] = {}
    if hasattr(asked, "image_guidance_scale"):
        found["image_guidance_scale"] = asked.image_guidance_scale
    controls = asked.call.controls
    if controls is not None:
        networks = controls.networks
        found["controlnet_conditioning_scale"] = [each.scale for each in networks]
        found["control_guidance_start"] = [each.start for each in networks]
        found["control_guidance_end"] = [each.end for each in networks]
        found["guess_mode"] = controls.guess
    return found


def _print(record: dict[str, Any], as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(record))
        return
    for path in record["outputs"]:
        click.echo(path)
    if not quiet:
        values = record["parameters"]
        click.echo(
            f"{values['width']}x{values['height']}, {record['steps']} steps of {values['sampler']}, seed "
            f"{values['seed']}, {record['seconds']:.2f} s on {_denoised(record['providers'])}",
            err=True,
        )
