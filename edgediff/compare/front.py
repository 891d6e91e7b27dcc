"""The Pareto front: what nothing else beats."""

from __future__ import annotations

from collections.abc import Sequence


def front(costs: Sequence[tuple[float, ...]]) -> list[bool]:
    """Say of each tuple of costs whether no other is at most as high in all and lower in one."""
    return [
        not any(all(o <= m for o, m in zip(other, mine, strict=True)) and other != mine for other in costs)
        for mine in costs
    ]


def costs(latency: float, psnr_db: float, size: int) -> tuple[float, float, float]:
    """Return what the front compares: seconds to two digits, PSNR to 0.1 dB, bytes to three digits.

    What differs by less is equal for all purposes, and the few bytes of a manifest are no merit.
    """
    return float(f"{latency:.1e}"), -round(psnr_db, 1), float(f"{size:.2e}")
