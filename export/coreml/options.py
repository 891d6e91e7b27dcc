"""What is asked of an export to Core ML, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from edgediff.errors import InputError, UnsupportedError
from edgediff.export.coreml.schemes import Scheme, scheme_of
from edgediff.export.emit.mil_form import Attention, Target
from edgediff.export.emit.reduce import parse

Layout = Literal["edgediff", "apple"]
Size = tuple[int, int]
LAYOUTS: tuple[Layout, ...] = ("edgediff", "apple")
ATTENTIONS: tuple[Attention, ...] = ("split_einsum", "original", "split_einsum_v2")
TARGETS: tuple[Target, ...] = ("iOS17", "iOS18")
MIXED = "mixed"
MIXED_PSNR = 40.0
"""What a mixed plan holds where no bound is given, in dB of the final latents. At 35, which Apple's converter
asks of its own programs, the embedded model lost 8 points of accuracy; at 40 none that 1000 captions show."""
_DTYPES = ("fp16", "fp32")
_MOST_BATCH, _MOST_SIZES, _MOST_SIDE = 16, 32, 8192


class Packing(TypedDict, total=False):
    """The fields of :class:`Wanted`, as keyword arguments."""

    layout: str
    dtype: str
    attention: str
    reduce_attention: str | None
    target: str
    sizes: Sequence[Size]
    batch: int | None
    chunk: bool
    guidance_scale: float | None
    quantize: str | None
    granularity: str | None
    group_size: int | None
    plan: str | None
    min_psnr: float | None
    max_size: float | None
    calibration: str | None
    force: bool
    receipt: bool
    verify: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """How packages are to be written; :func:`wanted` makes one.

    ``scheme`` says how weights are compressed, None not at all. ``sizes`` are (height, width) of the picture,
    empty for the model's own; ``batch`` is None where the layout decides. ``guidance_scale`` is what the
    layout ``apple`` bakes into a network that reads one.

    ``reduce_attention`` makes self-attention cheaper (:func:`edgediff.export.emit.reduce.parse` reads it); it
    asks for one size.

    The default attention is that of the Neural Engine, which is what phones and tablets compute fast with;
    ``original`` is for the GPU of a Mac.
    """

    layout: Layout = "edgediff"
    dtype: str = "fp16"
    attention: Attention = "split_einsum"
    reduce_attention: str | None = None
    target: Target = "iOS17"
    sizes: tuple[Size, ...] = ()
    batch: int | None = None
    chunk: bool = False
    guidance_scale: float | None = None
    quantize: str | None = None
    scheme: Scheme | None = None
    granularity: str | None = None
    group_size: int | None = None
    plan: str | None = None
    min_psnr: float | None = None
    max_size: float | None = None
    calibration: str | None = None
    force: bool = False
    receipt: bool = True
    verify: bool = True

    @property
    def precision(self) -> str:
        """What a manifest calls the result."""
        return self.dtype if self.quantize is None else self.quantize

    @property
    def needs_parent(self) -> bool:
        """Whether a float ONNX bundle is needed on the way, to measure or to calibrate with."""
        searched = self.quantize == MIXED and self.plan is None
        return self.receipt or searched or self.quantize == "int8"


def wanted(options: Packing) -> Wanted:
    """Check what a caller asks for.

    Raises:
        InputError: an option is unknown, out of range, or goes with others only.
        UnsupportedError: the target has no form for it.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    asked = replace(Wanted(), **{**given, "sizes": _sizes(given.get("sizes", ()))})
    asked = replace(asked, attention=cast(Attention, str(asked.attention).replace("-", "_")))
    _one_of("layout", asked.layout, LAYOUTS)
    _one_of("dtype", asked.dtype, _DTYPES)
    _one_of("attention", asked.attention, ATTENTIONS)
    _one_of("target", asked.target, TARGETS)
    _whole("batch", asked.batch, _MOST_BATCH)
    for name, bound in (("min_psnr", asked.min_psnr), ("max_size", asked.max_size)):
        if bound is not None and not 0 < bound < inf:
            raise InputError(f"{name} {bound}: expected a number above 0.")
    _check_shapes(asked)
    _check_layout(asked)
    return _compressing(asked)


def _check_shapes(asked: Wanted) -> None:
    if asked.reduce_attention is not None:
        parse(asked.reduce_attention)
    if len(asked.sizes) < 2:
        return
    if asked.reduce_attention is not None:
        raise UnsupportedError(
            f"reduce_attention with {len(asked.sizes)} sizes: its tiles and blocks are of one grid; export "
            "once for each size."
        )
    if asked.layout == "apple":
        raise InputError(
            f"{len(asked.sizes)} sizes: Apple's package asks a network for its default size and feeds no "
            "other; export once for each size, or use the layout edgediff."
        )
    if asked.attention == "split_einsum_v2":
        raise UnsupportedError(
            f"attention split-einsum-v2 with {len(asked.sizes)} sizes: it cuts the queries into chunks of a "
            "fixed number; export once for each size, or use split-einsum."
        )
    if asked.chunk:
        raise UnsupportedError(
            f"chunk with {len(asked.sizes)} sizes: a program may have one input of several shapes, and the "
            "second chunk reads many; export once for each size."
        )


def _check_layout(asked: Wanted) -> None:
    scale = asked.guidance_scale
    if scale is None:
        return
    if asked.layout != "apple":
        raise InputError(
            "guidance_scale: is an input in the layout edgediff; only the layout apple bakes it."
        )
    if not 0 <= scale <= 100:
        raise InputError(f"guidance_scale {scale}: expected 0 to 100.")


def _compressing(asked: Wanted) -> Wanted:
    """Read the scheme, and what goes with some schemes only."""
    name = asked.quantize
    if name is not None and asked.dtype != "fp16":
        raise InputError(f"quantize {name!r} with dtype {asked.dtype}: compressed programs compute in fp16.")
    if name is None and (asked.granularity is not None or asked.group_size is not None):
        raise InputError("granularity and group_size: only with quantize.")
    if name != MIXED and (asked.plan is not None or asked.max_size is not None):
        raise InputError("plan and max_size are for a mixed plan; ask for quantize 'mixed'.")
    if asked.calibration is not None and name not in (MIXED, "int8"):
        raise InputError("calibration: only with quantize int8 or mixed, which look at what layers compute.")
    if asked.min_psnr is not None and name != MIXED and not asked.receipt:
        raise InputError("min_psnr without a receipt: nothing would be measured; leave one of them out.")
    for option, path in (("calibration", asked.calibration), ("plan", asked.plan)):
        if path is not None and not Path(path).is_file():
            raise InputError(f"{option}: {path}: no such file.")
    if name is None:
        return asked
    found = scheme_of(name, granularity=asked.granularity, group_size=asked.group_size, target=asked.target)
    bounded = asked.plan is not None or asked.min_psnr is not None or asked.max_size is not None
    least = asked.min_psnr if name != MIXED or bounded else MIXED_PSNR
    return replace(asked, scheme=found, min_psnr=least)


def _sizes(given: Sequence[Size]) -> tuple[Size, ...]:
    found = tuple(dict.fromkeys((height, width) for height, width in given))
    if len(found) > _MOST_SIZES:
        raise InputError(f"{len(found)} sizes: at most {_MOST_SIZES}.")
    for size in found:
        if any(type(side) is not int or not 1 <= side <= _MOST_SIDE for side in size):
            raise InputError(f"size {size[0]}x{size[1]}: expected height and width in pixels.")
    return found


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(
            f"{option} {value!r}: known are {', '.join(each.replace('_', '-') for each in known)}."
        )


def _whole(option: str, value: int | None, most: int) -> None:
    if value is not None and (type(value) is not int or not 1 <= value <= most):
        raise InputError(f"{option} {value!r}: expected a whole number of 1 to {most}.")
