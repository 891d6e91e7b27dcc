"""Energy by the processor's own counters (RAPL), where Linux lets this user read them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path("/sys/class/powercap")
Counters = dict[str, tuple[int, int]]  # microjoules so far, and where the counter begins again


def read(folder: Path = FOLDER) -> Counters | str:
    """Return what each processor package has used since some moment, or why that cannot be read."""
    if sys.platform == "darwin":
        return "macOS tells it to root alone (powermetrics)"
    packages = sorted(folder.glob("*-rapl:[0-9]")) + sorted(folder.glob("*-rapl:[0-9][0-9]"))
    if not packages:
        return f"{folder} has no counter of a processor (RAPL)"
    try:
        return {
            package.name: tuple(
                int((package / name).read_text(encoding="ascii"))
                for name in ("energy_uj", "max_energy_range_uj")
            )  # type: ignore[misc]  # two of them
            for package in packages
        }
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return f"{packages[0]}/energy_uj cannot be read ({why}); root can, or give this user the right"


def between(
    before: Counters | str, after: Counters | str, pictures: int, seconds: float
) -> Mapping[str, Any]:
    """Return the joules between two readings, as a record has them. A counter may have begun again once."""
    told: dict[str, Any] = {"pictures": pictures, "seconds": seconds}
    if isinstance(before, str) or isinstance(after, str):
        reason = before if isinstance(before, str) else after
        return {**told, "joules": None, "source": None, "reason": reason}
    used = 0
    for name, (start, most) in before.items():
        step = after[name][0] - start
        used += step if step >= 0 else step + most
    return {**told, "joules": used / 1e6, "source": f"RAPL: {', '.join(before)}", "reason": None}
