"""Operations that may leave the Neural Engine, by what others published about it.

Core ML decides when it loads a program, by the chip and the system, and Apple publishes no list of what runs
where. Nothing here was run on a device: what is listed repeats a source, and what is not listed may leave the
Neural Engine all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from edgediff.mil_constants import is_compressed
from edgediff.mil_program import Feature, Function
from edgediff.neural_engine_rules import NO_PATH, RANGES, STABLE_DIFFUSION, TABLE, Rule, Source

MAX_PACKAGE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Leaving:
    """``count`` operations of one type which, as ``source`` has it, are not computed on the Neural Engine."""

    count: int
    operation: str
    reason: str
    source: Source


def leaving(function: Function, inputs: Iterable[Feature] = ()) -> list[Leaving]:
    """Return what may leave the Neural Engine, as far as the table knows: in its order, by operation.

    ``inputs`` are those that the package declares; one that takes a range of sizes is listed too.
    """
    types = {value.name: value.type for value in function.inputs}
    found: dict[Rule, Counter[str]] = {rule: Counter() for rule in TABLE}
    for operation in function.block.walk():
        if operation.type == "const" or (is_compressed(operation) and operation.type not in NO_PATH):
            continue
        types.update((output.name, output.type) for output in operation.outputs)
        for rule in TABLE:
            if rule.holds(operation, types):
                found[rule][operation.type] += 1
    listed = [
        Leaving(count, kind, rule.reason, rule.source)
        for rule, counts in found.items()
        for kind, count in counts.most_common()
    ]
    ranged = sum(bool(feature.ranges) for feature in inputs)
    if ranged:
        reason = "takes a range of sizes, of which the engine runs the default one alone"
        listed.append(Leaving(ranged, "input", reason, RANGES))
    return listed


def too_large(stored: int, elements: int) -> Leaving | None:
    """Return what is said of one package with ``stored`` bytes of ``elements`` weights, if it is too large.

    Apple's converter cuts such a network into two packages for iPhones and iPads.
    """
    if stored <= MAX_PACKAGE or stored * 8 <= 6.5 * elements:
        return None
    reason = (
        "holds more than 1 GB of weights of more than 6 bits; iPhones and iPads need it cut in two "
        "(--chunk-unet)"
    )
    return Leaving(1, "package", reason, STABLE_DIFFUSION)
