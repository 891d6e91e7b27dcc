"""What a network takes: an estimate from the bytes of its weights and the channels of its convolutions.

The factors are what ONNX Runtime 1.31.1's CPU provider took, measured by ``benchmarks/memory.py``, which
prints beside each estimate what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgediff import links
from edgediff.errors import ResourceError
from edgediff.memory.amount import shown
from edgediff.memory.cut import Cut, Stretch
from edgediff.onnx_scan import MAX_GRAPH_BYTES
from edgediff.onnx_tensors import FLOAT16, FLOAT32

# A stored byte of weights becomes this many once loaded, and this many at most while it loads, when the
# mapped file, what it is widened to and the packed copy stand side by side.
_STAYS = {FLOAT32: 1.1, FLOAT16: 2.1}
_LOADS = {FLOAT32: 2.3, FLOAT16: 4.6}
_INTEGER_STAYS, _INTEGER_LOADS = 1.06, 2.35
STRETCHES = (128 << 20, 64 << 20, 32 << 20, 16 << 20)
"""Sizes of stretches that are tried, in stored bytes of weights: fewer and larger ones first."""
# Values that are alive at once, in float32 per pixel and channel, where the network has most
# pixels; ``_INTEGERS`` where convolutions compute in integers, which unfold their input.
_FLOATS = {"denoiser": 21.0, "decoder": 6.3, "encoder": 3.5, "tiny_decoder": 8.0}
_INTEGERS = {"decoder": 7.8, "encoder": 3.5, "tiny_decoder": 10.0}
_CROSSING = 0.5  # of these, what waits between two stretches
_PER_TOKEN = 80_000  # bytes, of a text encoder
_HEADS = 8  # of unfused attention, whose scores are held twice


@dataclass(frozen=True, slots=True)
class Network:
    """A graph to be planned for: ``values`` are the bytes of what it computes with at once, at most."""

    role: str
    values: int
    cut: Callable[[int], Cut]

    def stretches(self, most: int) -> tuple[Stretch, ...]:
        """Return its stretches of at most ``most`` stored bytes of weights; 0 does not cut."""
        return self.cut(most).stretches


def stays(stretch: Stretch) -> int:
    """Return the bytes that a stretch takes once it is loaded."""
    return round(sum(n * _STAYS.get(kind, _INTEGER_STAYS) for kind, n in stretch.bytes_of.items()))


def loads(stretch: Stretch) -> int:
    """Return the bytes that a stretch takes at most while it is loaded."""
    return round(sum(n * _LOADS.get(kind, _INTEGER_LOADS) for kind, n in stretch.bytes_of.items()))


def widened(stretch: Stretch) -> int:
    """Return the bytes that its largest packed weight takes, unpacked, while it is multiplied."""
    return 4 * stretch.widened


def crossing(network: Network) -> int:
    """Return the bytes that wait between two stretches, at most."""
    return round(_CROSSING * network.values)


def reader(file: Path) -> Callable[[int], Cut]:
    """Return what cuts the graph of a file, which is read once.

    Raises:
        ResourceError: its weights are inside it, so that it cannot be cut.
        BundleError: it is missing, or no graph.
    """
    stream, receipt = links.open_regular(file)
    with stream:
        if receipt.bytes > MAX_GRAPH_BYTES:
            raise ResourceError(
                f"{file}: {shown(receipt.bytes)}, with the weights inside the graph, cannot be planned for; "
                "export the model again, so that they lie beside it."
            )
        data = stream.read(MAX_GRAPH_BYTES + 1)
    known: dict[int, Cut] = {}

    def cut(most: int) -> Cut:
        if most not in known:
            known[most] = Cut(data, most)
        return known[most]

    return cut


def values(role: str, cut: Cut, rows: int, extents: Mapping[str, int], tokens: int) -> int:
    """Return the bytes of what a network computes with at once, for ``rows`` inputs.

    ``extents`` are height and width where it has most pixels: latents for the denoiser, pictures else.
    """
    if role.startswith("text"):
        return _PER_TOKEN * tokens * rows
    pixels = extents["height"] * extents["width"]
    first, last = cut.channels
    kind = role if role in _FLOATS else "denoiser"
    integers = "QLinearConv" in cut.kinds
    floats = _INTEGERS.get(kind, _FLOATS[kind]) if integers else _FLOATS[kind]
    channels = first if kind == "encoder" else last
    found = 4 * floats * channels * pixels * rows
    if "Softmax" in cut.kinds and kind == "denoiser":
        found += 2 * 4 * _HEADS * pixels**2 * rows
    if "Softmax" in cut.kinds and kind in ("decoder", "encoder"):
        found += 2 * 4 * (pixels / 64) ** 2 * rows
    return round(found)
