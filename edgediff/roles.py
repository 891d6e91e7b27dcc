"""The parts of a bundle by role, and what is said of each: ``ROLE=VALUE,...``, or one value for all."""

from __future__ import annotations

import re

from edgediff.errors import InputError

ROLES = (
    "text_encoder", "text_encoder_2", "denoiser", "decoder", "tiny_decoder", "encoder", "control",
    "controlled_denoiser", "shallow_denoiser", "text_projections",
)  # fmt: skip
"""What a device can be chosen for; second and further networks that steer are ``control_2``, ...."""
PRECISIONS = ("fp32", "bf16")
"""What a graph's float32 may be computed in, where a device gives the choice."""


def parse_devices(device: str) -> dict[str, str]:
    """Return device by role from ``cpu`` or ``denoiser=cuda,decoder=cpu``; the key ``""`` is for all others.

    Raises:
        InputError: the text is neither.
    """
    return {"": "auto", **_by_role("device", device)}


def parse_precision(precision: str | None) -> dict[str, str]:
    """Return precision by role from ``bf16`` or ``denoiser=bf16,decoder=fp32``; the key ``""`` is for all
    others, which are left to the device where there is none.

    Raises:
        InputError: the text is neither, or a precision has no name here.
    """
    found = {} if precision is None else _by_role("precision", precision)
    for name in found.values():
        if name not in PRECISIONS:
            raise InputError(f"precision {precision!r}: {name!r} is none of {', '.join(PRECISIONS)}.")
    return found


def _by_role(what: str, text: str) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for item in text.split(","):
        role, equals, name = item.strip().rpartition("=")
        known = role in ROLES or re.fullmatch("control_[2-9]", role) is not None
        if not name or (equals and not known) or role in chosen:
            raise InputError(
                f"{what} {text!r}: expected a {what}, or ROLE={what.upper()},... with roles "
                f"{', '.join(ROLES)}."
            )
        chosen[role] = name
    return chosen
