"""Amounts of memory as people write them: ``1.5GB``, ``800MB``, ``1GiB``."""

from __future__ import annotations

import math
import re

from edgediff.errors import InputError

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_WRITTEN = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]{0,3})")


def parse(amount: object, name: str = "memory") -> int:
    """Return bytes from a text such as ``1.5GB`` (10**9) or ``1GiB`` (2**30), or from a whole number of them.

    Raises:
        InputError: it is neither, or nothing is left of it.
    """
    if isinstance(amount, int) and not isinstance(amount, bool) and amount > 0:
        return amount
    found = _WRITTEN.fullmatch(amount.strip()) if isinstance(amount, str) else None
    unit = None if found is None else _UNITS.get(found[2].lower())
    if found is None or unit is None or not (count := math.floor(float(found[1]) * unit)):
        raise InputError(
            f"{name}: {amount!r:.60} is no amount of memory; write one such as 1.5GB, 800MB or 1GiB."
        )
    return count


def shown(count: float) -> str:
    """Return bytes as people read them, rounded up: ``1.24 GB``, ``87 MB``."""
    if count >= 10**9:
        return f"{math.ceil(count / 10**7) / 100:.2f} GB"
    return f"{math.ceil(count / 10**6)} MB"
