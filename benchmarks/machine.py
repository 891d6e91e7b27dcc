"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def card() -> dict[str, object]:
    """Return processor, usable cores, memory and system of this machine."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _memory() -> float | None:
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    return round(int(info.read_text().split()[1]) / 2**20, 1)
