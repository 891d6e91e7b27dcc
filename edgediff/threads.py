"""How many threads this process should use: its affinity and its control group, not the machine."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_threads(cgroup: Path = CGROUP) -> int:
    """Return the cores this process may use: the smaller of its affinity mask and its cgroup quota, at least
    1.

    A container limited to half a core still sees every core of the machine; threads beyond the quota only
    wait.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        cores = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """Return the cores that the control group grants (version 2, then 1), or None without a limit."""
    try:
        allowed, period = (cgroup / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            allowed = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        value = float(allowed) / float(period)
    except (ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None
