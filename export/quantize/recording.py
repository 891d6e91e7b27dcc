"""Records what the float parent of a quantized bundle gives, for ``quality.npz``.

The calls are those of a user, at the model's own size, sampler and guidance, and in its own number of steps
where the work stays within a bound; of a full-size model fewer prompts and steps are walked. Of each walk a
few steps are kept, spread from the first to the last, as many as fit into the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from edgediff import latents, media, reference
from edgediff.bundle import Bundle
from edgediff.export.families.parts import Model
from edgediff.export.quantize.budget import course
from edgediff.export.quantize.scenes import dead_leaves, edges
from edgediff.export.quantize.trajectory import PICTURES
from edgediff.reference import Array, Call, Pass, Record, Sample
from edgediff.retrace import Drawn, Lean, request, walk
from edgediff.runtime import Tensor
from edgediff.step_cache import FEATURES

WORK = 26e12
"""Floating-point operations of all walks; about two and a half minutes on two cores of a server of 2023."""
BYTES = 8 << 20
"""What all recorded passes may take, equal rows counted once."""
PROMPTS = 16
_STEPS, _FEW_STEPS = 4, 2  # kept of each walk; of a full-size model's
_LATENTS = 32  # side of what the tiny decoder is given, which is local
_STEERED, _ENCODED = 256, 512  # sides of pictures whose passes would fill the file: residuals, pixels
_SCENE = 1000  # seed of the picture that calls are given


def record(
    parent: Path,
    model: Model,
    *,
    prompts: Sequence[str] | None = None,
    threads: int | None = None,
    report: Callable[[str], None] | None = None,
) -> bytes:
    """Draw with the float bundle ``parent`` and return the bytes of ``quality.npz``.

    ``prompts`` are at most ``PROMPTS``; those of natural pictures unless given. Equal parents give equal
    bytes on one machine.

    Raises:
        InputError: the bundle cannot be called so. NumericError: what it gives is not finite.
    """
    bundle = Bundle.open(parent)
    asked = tuple(prompts if prompts is not None else reference.PROMPTS)[:PROMPTS]
    given = _given(bundle)

    def ask(steps: int | None) -> Any:
        return request(bundle, _settings(bundle, steps), given, _call(bundle, asked[0], 0, given, False))

    roles = [part.role for part in model.parts]
    chosen = course(bundle, model, roles, ask, len(asked), min(2, len(asked)), WORK)
    settings = _settings(bundle, chosen.steps)
    calls = [
        _call(bundle, prompt, i, given, bool(bundle.controls) and i == chosen.prompts - 1)
        for i, prompt in enumerate(asked[: chosen.prompts])
    ]
    if report is not None:
        steps = chosen.steps if chosen.steps is not None else bundle.defaults.num_inference_steps
        report(f"recording what the float parent gives for {len(calls)} prompts in {steps} steps")
    parts = _Watching(bundle, "cpu", options={"threads": threads}, verify=False)
    parts.steps = _STEPS if chosen.note is None else _FEW_STEPS
    try:
        drawn = list(walk(parts, [request(bundle, settings, given, each) for each in calls], parts.step))
        _decode_tiny(parts, drawn)
        _encode(parts, drawn)
    finally:
        parts.close()
    done = [
        Call(each.prompt, each.seed, each.given, one.latents, one.picture)
        for each, one in zip(calls, drawn, strict=True)
    ]
    return reference.dumps(Record(settings, done, _fitting(parts.kept), given))


def _settings(bundle: Bundle, steps: int | None) -> dict[str, Any]:
    """What is asked of every call: all that a bundle's defaults could say otherwise."""
    defaults = bundle.defaults
    told: dict[str, Any] = {"guidance_scale": defaults.guidance_scale}
    if defaults.timesteps is None:
        told["num_inference_steps"] = defaults.num_inference_steps if steps is None else steps
    return told


def _given(bundle: Bundle) -> dict[str, Array]:
    """The pictures that calls are given, where the bundle's tasks need any."""
    size = {"height": 64, "width": 64, **bundle.defaults.size}
    found: dict[str, Array] = {}
    if bundle.tasks and "text2image" not in bundle.tasks:
        found["image"] = media.to_bytes(dead_leaves(size, _SCENE))
    if bundle.tasks == ("inpaint",):
        mask = np.zeros((size["height"], size["width"]), np.uint8)
        mask[:, size["width"] // 2 :] = 255
        found["mask_image"] = mask
    if bundle.controls:
        factor = max(bundle.latents.downscale.values())
        while size["height"] * size["width"] > _STEERED**2:
            size = {axis: max(factor, extent // 2 // factor * factor) for axis, extent in size.items()}
        found["control_image"] = media.to_bytes(edges(dead_leaves(size, _SCENE)))
    return found


def _call(bundle: Bundle, prompt: str, seed: int, given: Mapping[str, Array], steered: bool) -> Call:
    names = tuple(name for name in given if (name == "control_image") == steered or name != "control_image")
    return Call(prompt, seed, names, np.zeros(1, np.float32), None)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A pass and how much it is wanted; 0 is most."""

    rank: int
    made: Pass


class _Watching(Lean):
    """Parts that keep passes: of what runs in each step those of a few steps, of all others every one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.kept: list[_Kept] = []
        self.steps = _STEPS
        self._ranks: dict[int, int] = {}  # of the steps that are kept of this walk
        self._now: tuple[int, int] | None = None
        self._done: set[tuple[str, tuple[int, int]]] = set()

    def step(self, call: int, step: int, total: int) -> None:
        """A step begins."""
        self._ranks = _ranks(total, self.steps)
        self._now = (call, step)

    def run(self, role: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a role's graph once, and keep the pass if it is wanted."""
        outputs = super().run(role, inputs)
        rank = 0
        if self._now is not None and role not in PICTURES:
            rank = self._ranks.get(self._now[1], -1)
            if rank < 0 or (role, self._now) in self._done:
                return outputs  # some samplers run it twice in a step
            self._done.add((role, self._now))
        fed = {name: np.array(value) for name, value in inputs.items()}
        gave = {
            name: Sample.of(np.array(outputs[name]), self._counted(role, outputs[name]))
            for name in self._read(role, outputs)
        }
        self.kept.append(_Kept(rank, Pass(role, fed, gave)))
        return outputs

    def _read(self, role: str, outputs: Mapping[str, Tensor]) -> list[str]:
        """The outputs that tasks read by default; a text encoder has further ones."""
        text = self.bundle.text
        for encoder in () if text is None else text.encoders:
            if encoder.role == role:
                return [encoder.hidden] if encoder.pooled is None else [encoder.hidden, encoder.pooled]
        return [name for name in outputs if name != FEATURES]  # which only the shallow denoiser reads

    def _counted(self, role: str, output: Tensor) -> int | None:
        """Of means and log variances of latents, the means."""
        channels = self.bundle.latents.channels
        return channels if role == "encoder" and output.shape[1] == 2 * channels else None


def _ranks(total: int, count: int) -> dict[int, int]:
    """The steps of a walk that are kept, the most wanted first: the first, the last, and between them."""
    spread = (0, total - 1, (total - 1) // 3, 2 * (total - 1) // 3)
    return {step: rank for rank, step in enumerate(dict.fromkeys(spread[:count]))}


def _decode_tiny(parts: _Watching, drawn: Sequence[Drawn]) -> None:
    """Let the tiny decoder see the latents, which no call asks it to decode; the middle of large ones."""
    for each in drawn if "tiny_decoder" in parts.bundle.components else ():
        top, left = (max(0, (extent - _LATENTS) // 2) for extent in each.latents.shape[2:])
        latents.decode(parts, each.latents[:, :, top : top + _LATENTS, left : left + _LATENTS], "tiny")


def _encode(parts: _Watching, drawn: Sequence[Drawn]) -> None:
    """Let the encoder see the pictures, where no task did; the middle of large ones."""
    shown = [each.picture for each in drawn if each.picture is not None]
    if "encoder" not in parts.bundle.components or any(each.made.role == "encoder" for each in parts.kept):
        return
    for picture in shown:
        top, left = (max(0, (extent - _ENCODED) // 2) for extent in picture.shape[:2])
        cut = picture[top : top + _ENCODED, left : left + _ENCODED].astype(np.float32)
        # In steps of 1/128, which half precision holds: the file has them in two bytes.
        levels = np.rint(cut * np.float32(256 / 255)) / np.float32(128) - np.float32(1)
        latents.encode(parts, levels.transpose(2, 0, 1)[None])


def _fitting(kept: Sequence[_Kept]) -> list[Pass]:
    """As many passes as ``BYTES`` holds, in the order in which they ran: one of each role, then by rank."""
    order = sorted(range(len(kept)), key=lambda i: kept[i].rank)
    first = {kept[i].made.role: i for i in reversed(order)}
    counted: set[bytes] = set()
    chosen, left = set(), BYTES
    for i in dict.fromkeys([*first.values(), *order]):
        rows = _rows(kept[i].made)
        new = {key: size for key, size in rows.items() if key not in counted}
        if i in first.values() or sum(new.values()) <= left:
            chosen.add(i)
            counted |= new.keys()
            left -= sum(new.values())
    return [kept[i].made for i in sorted(chosen)]


def _rows(made: Pass) -> dict[bytes, int]:
    """Bytes by the digest of each row of a pass."""
    arrays = [*made.inputs.values(), *(output.values for output in made.outputs.values())]
    rows = [row for array in arrays for row in (array if array.ndim > 1 else [array])]
    return {sha256(np.ascontiguousarray(row).tobytes()).digest(): row.nbytes for row in rows}
