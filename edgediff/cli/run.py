"""``edgediff run``: a prompt becomes a picture."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

EXAMPLE = """\b
Examples:
  edgediff run "a red circle to the left of a blue square on a white background" -o out.png
  edgediff run "a cat" -m my-bundle --steps 20 --guidance-scale 7.5 -n "blurry" -s 42
"""


@click.command(epilog=EXAMPLE, short_help="Draw a picture from a prompt.")
@click.argument("prompt")
@click.option("-m", "--model", metavar="BUNDLE", help="Folder of a bundle; the embedded model unless given.")
@click.option("-o", "--output", default="out.png", show_default=True, help="PNG, JPEG or WebP file to write.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("-n", "--negative-prompt", help="What to keep away from (needs guidance above 1).")
@click.option("--steps", "--num-inference-steps", "steps", type=int, help="Denoising steps, 1 to 1000.")
@click.option("--guidance-scale", "--cfg-scale", "guidance_scale", type=float, help="1 means none.")
@click.option("--guidance-rescale", type=float, default=0.0, show_default=True, help="0 to 1.")
@click.option("-s", "--seed", type=int, help="0 to 4294967295; random, and reported, unless given.")
@click.option("-H", "--height", type=int, help="Pixels.")
@click.option("-W", "--width", type=int, help="Pixels.")
@click.option("--sampler", help="ddim, euler, euler_karras, dpmpp_2m, dpmpp_2m_karras, lcm, ...")
@click.option("--eta", type=float, help="DDIM's share of fresh noise, 0 to 1.")
@click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, ..., or PART=DEVICE,PART=DEVICE."
)
@click.option("--runtime", default="onnxruntime", show_default=True, help="Name a runtime outright.")
@click.option("-t", "--threads", type=int, help="Threads in a graph; the usable cores unless given.")
@click.option("--no-metadata", is_flag=True, help="Write no generation parameters into the file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print the path alone; no progress.")
def command(
    prompt: str,
    model: str | None,
    output: str,
    overwrite: bool,
    negative_prompt: str | None,
    steps: int | None,
    guidance_scale: float | None,
    guidance_rescale: float,
    seed: int | None,
    height: int | None,
    width: int | None,
    sampler: str | None,
    eta: float | None,
    device: str,
    runtime: str,
    threads: int | None,
    no_metadata: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw PROMPT and write the picture to a file. Without -m the embedded model draws it."""
    began = time.perf_counter()
    from edgediff import media
    from edgediff.pipeline import load
    from edgediff.tasks import text2image

    file = media.checked_output(output, overwrite)
    pipe = load(model, device=device, runtime=runtime, threads=threads)
    call = text2image.request(
        pipe.bundle, prompt, negative_prompt=negative_prompt, num_inference_steps=steps, sampler=sampler,
        guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, height=height, width=width,
        seed=seed, eta=eta,
    )  # fmt: skip
    progress = not quiet and not as_json and sys.stderr is not None and sys.stderr.isatty()
    x = None
    for step in pipe.walk(call):
        x = step.x
        if progress:
            click.echo(f"\rstep {step.i + 1} of {len(call.schedule.hops)}", nl=False, err=True)
    if progress:
        click.echo("\r\033[K", nl=False, err=True)
    assert x is not None  # a schedule has at least one hop
    image = pipe.decode(x)[0]
    record = _record(pipe, call, file, image, time.perf_counter() - began)
    media.save(image, file, None if no_metadata else {"edgediff": json.dumps(record["parameters"])})
    _print(record, as_json, quiet)


def _record(pipe: Any, call: Any, file: Path, image: Any, seconds: float) -> dict[str, Any]:
    return {
        "output": str(file),
        "parameters": {
            "prompt": call.prompts[0],
            "negative_prompt": call.negatives[0] if call.negatives else None,
            "seed": call.seed,
            "num_inference_steps": len(call.schedule.hops),
            "guidance_scale": call.guidance_scale,
            "guidance_rescale": call.guidance_rescale,
            "sampler": call.solver.name,
            "height": image.height,
            "width": image.width,
            "model": pipe.bundle.origin.get("source"),
        },
        "providers": {role: info.provider for role, info in pipe.infos().items()},
        "timings": {name: round(value, 4) for name, value in pipe.timings.items()},
        "seconds": round(seconds, 4),
    }


def _print(record: dict[str, Any], as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(record))
        return
    click.echo(record["output"])
    if not quiet:
        values = record["parameters"]
        click.echo(
            f"{values['width']}x{values['height']}, {values['num_inference_steps']} steps of "
            f"{values['sampler']}, "
            f"seed {values['seed']}, {record['seconds']:.2f} s on {record['providers'].get('denoiser')}",
            err=True,
        )
