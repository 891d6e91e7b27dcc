"""Pictures that steer any task through a ControlNet: what a call says of them, checked.

Zhang et al. (2023, "Adding Conditional Control to Text-to-Image Diffusion Models"). The networks themselves
are run by :mod:`edgediff.control`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgediff.bundle import Bundle
from edgediff.errors import InputError, UnsupportedError
from edgediff.pictures import read_pictures
from edgediff.sampler import Array
from edgediff.tasks import framing
from edgediff.tasks import request as check
from edgediff.tasks.masks import Box

MAX_SCALE = 10
_COLOURS = 3


@dataclass(frozen=True, slots=True)
class Control:
    """One network and what it is shown: ``pictures`` in [0, 1], shape (1 or prompts, 3, H, W).

    What it says is multiplied by ``scale`` from the share ``start`` of the network calls to the share
    ``end``, and by 0 outside.
    """

    role: str
    pictures: Array
    scale: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Controls:
    """All networks of a call. ``guess`` asks for guess mode: what is drawn is guessed from the picture."""

    networks: tuple[Control, ...]
    guess: bool

    @property
    def roles(self) -> tuple[str, ...]:
        """What has to be loaded, instead of the plain denoiser."""
        return ("controlled_denoiser", *(each.role for each in self.networks))


def checked(
    bundle: Bundle,
    image: Any,
    count: int,
    *,
    scale: float | Sequence[float] | None,
    start: float | Sequence[float] | None,
    end: float | Sequence[float] | None,
    guess: bool,
    height: int | None,
    width: int | None,
    fit: str | None,
    background: Any,
) -> tuple[Controls, dict[str, int]]:
    """Read the control pictures of ``count`` prompts; return them with the size to draw, by axis.

    For one network ``image`` is a picture or a list with one for each prompt. For several it is a list with
    one for each network, or for each prompt such a list. Without ``height`` and ``width`` the first picture's
    size is drawn.

    Raises:
        InputError: the bundle has no ControlNet, or an argument is wrong.
        UnsupportedError: a network reads something else than colours.
    """
    nets = bundle.controls
    if not nets:
        raise InputError(
            f"control_image: {bundle.path} has no ControlNet; export a pipeline that has one, or leave the "
            "control_image out."
        )
    for net in nets:
        if net.channels != _COLOURS:
            raise UnsupportedError(f"{net.role}: it reads {net.channels} channels; pictures have {_COLOURS}.")
    if not isinstance(guess, bool):
        raise InputError(f"guess_mode: {guess!r} is neither True nor False.")
    scales = _each("controlnet_conditioning_scale", 1.0 if scale is None else scale, len(nets), MAX_SCALE)
    starts = _each("control_guidance_start", 0.0 if start is None else start, len(nets), 1)
    ends = _each("control_guidance_end", 1.0 if end is None else end, len(nets), 1)
    for begin, stop in zip(starts, ends, strict=True):
        if begin >= stop:
            raise InputError(f"control_guidance_start: {begin:g} is not below the end, {stop:g}.")
    networks = []
    size = {"height": height, "width": width}
    for i, pictures in enumerate(_by_network(image, len(nets))):
        name = "control_image" if len(nets) == 1 else f"control_image for {nets[i].role}"
        found, framed, _ = framing.framed(
            bundle, pictures, size["height"], size["width"], fit, background, name
        )
        size = {**framed}
        framing.check_count(name, len(found), count)
        shown = np.ascontiguousarray(np.stack(found).transpose(0, 3, 1, 2))
        networks.append(Control(nets[i].role, shown, scales[i], starts[i], ends[i]))
    return Controls(tuple(networks), guess), check.sizes(bundle, size)


def _each(name: str, value: float | Sequence[float], count: int, high: float) -> tuple[float, ...]:
    """One number for all networks, or one for each."""
    if not isinstance(value, (list, tuple)):
        return (check.number(name, value, 0, high),) * count
    if len(value) != count:
        raise InputError(f"{name}: {len(value)} numbers for {count} ControlNets; give one, or one each.")
    return tuple(check.number(name, each, 0, high) for each in value)


def _by_network(image: Any, count: int) -> list[Any]:
    """What each network is shown."""
    if count == 1:
        return [image]
    if not isinstance(image, (list, tuple)) or not image:
        raise InputError(f"control_image: there are {count} ControlNets; give a list of {count} pictures.")
    nested = [isinstance(each, (list, tuple)) for each in image]
    if any(nested) and not all(nested):
        raise InputError("control_image: some entries are lists and some are not; give lists of pictures.")
    rows = [list(each) for each in image] if all(nested) else [list(image)]
    for row in rows:
        if len(row) != count:
            raise InputError(
                f"control_image: {len(row)} pictures were given for {count} ControlNets; give one each."
            )
    if not all(nested):
        return list(rows[0])
    return [[row[i] for row in rows] for i in range(count)]


def cropped(image: Any, box: Box, own: tuple[int, int], size: dict[str, int], background: Any) -> Any:
    """Return control pictures, nested as given, of the region ``box`` of pictures of (H, W) = ``own``.

    Raises:
        InputError: a picture cannot be read or is of another size.
    """
    if isinstance(image, (list, tuple)):
        return [cropped(each, box, own, size, background) for each in image]
    left, top, right, bottom = box
    done = []
    for picture in read_pictures(image, name="control_image", background=background):
        if picture.shape[:2] != own:
            raise InputError(
                f"control_image: it is {picture.shape[1]}x{picture.shape[0]}; with padding_mask_crop it has "
                f"the image's size, {own[1]}x{own[0]}."
            )
        done.append(framing.fitted(picture[top:bottom, left:right], size, "fill"))
    return done[0] if len(done) == 1 else np.stack(done)
