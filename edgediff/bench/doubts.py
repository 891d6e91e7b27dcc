"""What makes the figures of a record doubtful, said in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgediff.bench.record import Component, Machine

_BUSY, _SPREAD, _FEW, _SHARE = 0.3, 0.1, 5, 0.05


def found(machine: Machine, parts: Sequence[Component]) -> Iterator[str]:
    """Yield warnings: another load, wide spreads, few pictures, more than a limit."""
    if machine.load_before is not None and machine.load_before > _BUSY * machine.cores:
        yield (
            f"the machine was busy before anything was measured: a load of {machine.load_before:g} on "
            f"{machine.cores} cores; figures may be too slow, and differ from run to run"
        )
    if machine.governor not in (None, "performance"):
        yield f"the clock's governor is {machine.governor}; performance makes runs more alike"
    for part in parts:
        if part.share >= _SHARE and part.seconds.spread > _SPREAD:
            yield (
                f"{part.name}: the middle half of its times spans {part.seconds.spread:.0%} of the median; "
                "other work on the machine, or its clock, changed meanwhile"
            )
        if part.work is not None and part.work.limit_percent is not None and part.work.limit_percent > 100:
            yield (
                f"{part.name}: faster than the limit that was measured ({part.work.limit_percent:.0f} %): "
                "other work slowed the limit's measurement, or this form of the graph computes less than the "
                "network as it is written"
            )
        if part.name == "picture" and part.seconds.n < _FEW:
            yield f"{part.seconds.n} pictures were drawn; {_FEW} or more say more of the spread"
