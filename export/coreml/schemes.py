"""The named ways in which a Core ML package stores its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgediff.errors import InputError, UnsupportedError
from edgediff.export.emit.mil_form import Target

Kind = Literal["palette", "linear", "activations", "mixed"]
Granularity = Literal["per_tensor", "per_grouped_channel", "per_channel", "per_block"]
GROUP, BLOCK = 16, 32
"""Output channels that share a palette, input channels that share a scale, where nothing else is asked."""
_LEAST = 8


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one weight, or every weight of a model, is stored.

    ``kind``: ``palette`` (indices into a table of 2**bits values), ``linear`` (integers times a scale),
    ``activations`` (both operands are int8; the emitter writes these layers), ``mixed`` (a palette for each
    layer, found by a search; ``bits`` is 0). ``group_size``: output channels that share a table, or input
    channels that share a scale; None elsewhere.
    """

    name: str
    kind: Kind
    bits: int
    granularity: Granularity = "per_tensor"
    group_size: int | None = None


PALETTES = {bits: Scheme(f"palette-{bits}", "palette", bits) for bits in (8, 6, 4, 3, 2, 1)}
"""Palettes with one table for each weight, by bits."""
BYTES = Scheme("int8-weights", "linear", 8, "per_channel")
"""Symmetric int8 with a scale for each output channel: also what ``int8`` leaves to the other layers."""
_KNOWN = (
    *PALETTES.values(),
    BYTES,
    Scheme("int4-weights", "linear", 4, "per_block", BLOCK),
    Scheme("int8", "activations", 8, "per_channel"),
    Scheme("mixed", "mixed", 0),
)
_BY_NAME = {scheme.name: scheme for scheme in _KNOWN}
NAMES = tuple(_BY_NAME)
"""What ``--quantize`` takes for Core ML."""
_GROUPED: dict[str, Granularity] = {"per_tensor": "per_tensor", "per_grouped_channel": "per_grouped_channel"}


def scheme_of(
    name: str, *, granularity: str | None = None, group_size: int | None = None, target: Target = "iOS17"
) -> Scheme:
    """The scheme that is asked for; ``granularity`` with hyphens or underscores.

    Raises InputError for what is unknown or contradictory, UnsupportedError for what the target cannot hold.
    """
    scheme = _BY_NAME.get(name)
    if scheme is None:
        raise InputError(f"No scheme {name!r} for Core ML; there are {', '.join(NAMES)}.")
    scheme = _sized(_grained(scheme, granularity), group_size)
    check(scheme, target)
    return scheme


def check(scheme: Scheme, target: Target) -> None:
    """Raises UnsupportedError for what the target cannot hold.

    iOS 16's operations, which iOS 17 still has, know tables of 1, 2, 4, 6 and 8 bits, and scales for channels
    (coremltools, MIL operations ``constexpr_lut_to_dense`` and ``constexpr_affine_dequantize``).
    """
    what, instead = "", ""
    if scheme.kind == "palette" and scheme.bits == 3:
        what, instead = "A palette of 3 bits", "palette-2 or palette-4"
    elif scheme.granularity == "per_grouped_channel":
        what, instead = "A palette for each group of channels", "--granularity per-tensor"
    elif scheme.granularity == "per_block":
        what, instead = "A weight of 4 bits with a scale for each block", "palette-4"
    if what and target == "iOS17":
        raise UnsupportedError(
            f"{what} needs iOS 18 or macOS 15, and the target is iOS17. "
            f"Use --target iOS18, or {instead} for iOS17."
        )


def table_of(scheme: Scheme, bits: int) -> Scheme:
    """The palette of so many bits that is cut as ``scheme`` is: what a search over widths chooses from."""
    return replace(PALETTES[bits], granularity=scheme.granularity, group_size=scheme.group_size)


def fitted(scheme: Scheme, shape: Sequence[int]) -> Scheme:
    """The scheme that a weight (output channels, input channels, ...) gets where this one is asked for.

    Groups and blocks that do not divide the channels are halved until they do, down to 8. Below that a table
    holds for the whole weight, and a scale for a channel, with 8 bits: these layers have few channels.
    """
    if scheme.kind == "activations":
        return BYTES
    if scheme.group_size is None:
        return scheme
    channels = shape[0] if scheme.kind == "palette" else shape[1]
    size = scheme.group_size
    while channels % size and size // 2 >= _LEAST:
        size //= 2
    if channels % size == 0:
        return replace(scheme, group_size=size)
    return replace(scheme, granularity="per_tensor", group_size=None) if scheme.kind == "palette" else BYTES


def _grained(scheme: Scheme, granularity: str | None) -> Scheme:
    if granularity is None:
        return scheme
    if scheme.kind not in ("palette", "mixed"):
        raise InputError(
            f"--granularity belongs to palettes; {scheme.name} is {_spoken(scheme.granularity)}."
        )
    found = _GROUPED.get(granularity.replace("-", "_"))
    if found is None:
        raise InputError(
            f"No granularity {granularity!r} for palettes; there are {', '.join(map(_spoken, _GROUPED))}."
        )
    return replace(scheme, granularity=found, group_size=GROUP if found == "per_grouped_channel" else None)


def _sized(scheme: Scheme, size: int | None) -> Scheme:
    if size is None:
        return scheme
    if size < 1:
        raise InputError(f"--group-size {size}: a group has at least one channel.")
    if scheme.granularity == "per_tensor" and scheme.kind in ("palette", "mixed"):
        raise InputError("--group-size needs --granularity per-grouped-channel: one table has no groups.")
    if scheme.group_size is None:
        raise InputError(
            f"--group-size does not go with {scheme.name}, which is {_spoken(scheme.granularity)}; "
            "it belongs to grouped palettes and to int4-weights."
        )
    return replace(scheme, group_size=size)


def _spoken(granularity: str) -> str:
    return granularity.replace("_", "-")
