"""Chooses how a run stays inside its budget, before anything is loaded.

In order: networks whole and kept; one stage's networks at a time; decoding in tiles; networks in stretches,
of which as many as fit stay loaded. What is computed is the same, but for tiles (:mod:`edgediff.tiling`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgediff import tiling
from edgediff.errors import ResourceError
from edgediff.memory import needs
from edgediff.memory.amount import shown
from edgediff.memory.cut import Stretch
from edgediff.memory.needs import Network


@dataclass(frozen=True, slots=True)
class Loading:
    """How a network is loaded: bytes of weights in a stretch (0: all), and how many stay (None: all)."""

    stretch: int = 0
    resident: int | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """Networks that are loaded together, as they run in turns."""

    name: str
    networks: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """``peaks`` has the bytes that each stage takes, of the whole process; ``keep`` says that networks stay
    loaded from stage to stage; ``tile`` is the side of tiles to decode, in pixels."""

    budget: int
    base: int
    loading: Mapping[str, Loading]
    peaks: Mapping[str, int]
    keep: bool = False
    tile: int | None = None

    @property
    def peak(self) -> int:
        """The most that is expected."""
        return max(self.peaks.values(), default=self.base)


class TooLittle(ResourceError):
    """A stage cannot be had inside the budget; ``least`` is what the whole process would need for it."""

    def __init__(self, stage: str, least: int, budget: int) -> None:
        super().__init__(f"{stage}: {shown(budget)} of memory are too little; it needs {shown(least)}.")
        self.stage, self.least = stage, least


def staged(stage: Stage, base: int, budget: int) -> tuple[dict[str, Loading], int]:
    """Return how to load a stage's networks, and the peak that this has.

    Raises:
        TooLittle: nothing fits.
    """
    least = None
    best: tuple[int, dict[str, Loading], int] | None = None
    for most in needs.STRETCHES:
        loading, peak, streamed = _filled(stage, base, budget, most)
        if peak <= budget and (best is None or streamed < 0.8 * best[0]):
            best = streamed, loading, peak
        least = peak if least is None else min(least, peak)
        if best is not None and best[0] == 0:
            break
    if best is None:
        assert least is not None
        raise TooLittle(stage.name, least, budget)
    return best[1], best[2]


def _filled(stage: Stage, base: int, budget: int, most: int) -> tuple[dict[str, Loading], int, int]:
    """Loading with as many stretches resident as fit, its peak, and the bytes loaded in each pass."""
    cuts = [(network, network.stretches(most)) for network in stage.networks]
    counts = {network.role: 0 for network in stage.networks}
    peak = _peak(cuts, counts, base)
    for network, stretches in cuts:
        for count in range(1, len(stretches) + 1):
            more = {**counts, network.role: count}
            reached = _peak(cuts, more, base)
            if reached > budget:
                break
            counts, peak = more, reached
    streamed = sum(s.weight_bytes for network, each in cuts for s in each[counts[network.role] :])
    loading = {
        network.role: Loading(most, None if counts[network.role] == len(each) else counts[network.role])
        for network, each in cuts
    }
    return loading, peak, streamed


Cuts = Sequence[tuple[Network, tuple[Stretch, ...]]]


def _peak(cuts: Cuts, counts: Mapping[str, int], base: int) -> int:
    found, held = base, base
    for network, stretches in cuts:
        for stretch in stretches[: counts[network.role]]:
            found = max(found, held + needs.loads(stretch))
            held += needs.stays(stretch)
    for network, stretches in cuts:
        for k, stretch in enumerate(stretches):
            here = held + network.values + needs.widened(stretch)
            if k >= counts[network.role]:
                found = max(found, held + needs.crossing(network) + needs.loads(stretch))
                here += needs.stays(stretch)
            found = max(found, here)
    return found


def decoding(
    network: Callable[[int, int], Network], size: Mapping[str, int], factors: Mapping[str, int],
    base: int, budget: int, tile: int | str | None,
) -> tuple[dict[str, Loading], int, int | None]:  # fmt: skip
    """Return how to load the decoder, the peak, and the side of the tiles that it works on (None: none).

    ``network`` is the decoder for a height and a width; ``tile`` what the call asked for: a side, None for
    no tiles, or ``auto``. The largest tile that fits with the decoder loaded once is taken, else the smallest
    with the decoder in stretches.

    Raises:
        TooLittle: nothing fits.
    """

    def stage(height: int, width: int) -> Stage:
        return Stage("decoding", (network(height, width),))

    def whole(height: int, width: int) -> bool:
        try:
            loading, _ = staged(stage(height, width), base, budget)
        except TooLittle:
            return False
        return all(each.resident is None for each in loading.values())

    side: int | None = None
    if isinstance(tile, int):
        side = tile
    elif tile == "auto" and tuple(factors) == ("height", "width"):
        try:
            side = tiling.largest(size, factors, whole)
        except ResourceError:
            side = tiling.LEAST * max(factors.values())
    height, width = size["height"], size["width"]
    if side is not None:
        height, width = min(height, side), min(width, side)
    loading, peak = staged(stage(height, width), base, budget)
    return loading, peak, side
