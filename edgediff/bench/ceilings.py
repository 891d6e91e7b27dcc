"""How far a component is from what this machine does at best: its work over the limits of its precisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgediff.bench.record import Limit, Ran, Work

_KIND = {"conv": "conv", "linear": "gemm", "attention": "gemm"}


def float_of(ran: Ran) -> str:
    """Return what a graph computes its floats in: weights stored in half precision are float32 on a CPU."""
    if "bf16" in ran.precision.split("+")[1:]:
        return "bf16"
    return "fp16" if ran.device == "cuda" and "fp16" in ran.precision else "fp32"


def computes_integers(ran: Ran) -> bool:
    """Whether some layers of a graph compute in int8, as far as its precision says."""
    return ran.precision.partition("+")[0] in ("int8", "mixed")


def wanted(graphs: Iterable[Ran]) -> list[dict[str, Any]]:
    """Return what limits graphs ask for, as :mod:`edgediff.bench.limits` takes it."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for ran in graphs:
        if ran.runtime != "onnxruntime":
            continue
        kind = float_of(ran)
        each = found.setdefault(
            (ran.device, ran.provider, kind),
            {
                "device": ran.device, "provider": ran.provider, "float": kind, "floats": kind != "fp16",
                "option": "bf16" if kind == "bf16" else None, "integers": False,
            },
        )  # fmt: skip
        each["integers"] = each["integers"] or computes_integers(ran)
    return list(found.values())


def work(counts: Mapping[str, int], source: str, seconds: float, ran: Ran, limits: Sequence[Limit]) -> Work:
    """Return the work of a call that took ``seconds``, beside the least time that the limits allow."""
    total = sum(counts.values())
    least, said = 0.0, dict[str, None]()
    for kind, flops in counts.items():
        if flops:
            limit = limit_of(kind, ran, limits)
            if limit is None:
                return Work(
                    total, dict(counts), source, total / seconds, None, None,
                    f"no limit was measured for {kind} on {ran.provider}",
                )  # fmt: skip
            least += flops / limit.per_second
            said[f"{limit.kind} {limit.precision} {limit.per_second / 1e9:.0f}"] = None
    by = f"{', '.join(said)} GFLOP/s"
    return Work(total, dict(counts), source, total / seconds, least, 100 * least / seconds, by)


def limit_of(kind: str, ran: Ran, limits: Sequence[Limit]) -> Limit | None:
    """Return the limit for a class of work. Attention is never in integers; other work is taken to be, in a
    graph where some is, so that its limit is not said too low."""
    precision = "int8" if computes_integers(ran) and kind != "attention" else float_of(ran)
    for each in limits:
        if (each.kind, each.precision, each.provider) == (_KIND[kind], precision, ran.provider):
            return each
    return None
