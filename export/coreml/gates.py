"""Whether Core ML packages may be kept without ``--force``: how far they may be from the float32 graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgediff.export.quantize.gates import FLOORS as ONNX_FLOORS
from edgediff.export.quantize.gates import Floor
from edgediff.retrace import below, told_db

APPLE = 35.0
"""What Apple's converter asks of its own float16 programs, in dB of peak (largest magnitude) over error."""
_EIGHT, _FOUR = ONNX_FLOORS["int8-weights"], ONNX_FLOORS["int4-weights"]
FLOORS: Mapping[str, Floor] = {
    "fp32": Floor(80.0, 80.0, 60.0, 50.0, 45.0, 0.99),
    "fp16": ONNX_FLOORS["fp16"],
    "palette-8": _EIGHT,
    "int8-weights": _EIGHT,
    "palette-6": Floor(18.0, 0.0, 20.0, 8.0, 14.0, 0.4),
    "int8": ONNX_FLOORS["int8"],
    "palette-4": _FOUR,
    "int4-weights": _FOUR,
    "palette-3": Floor(6.0, 0.0, 12.0, 3.0, 10.0, 0.3),
    "palette-2": Floor(4.0, 0.0, 10.0, 2.0, 10.0, 0.2),
    "palette-1": Floor(3.0, 0.0, 10.0, 1.0, 10.0, 0.1),
    "mixed": ONNX_FLOORS["mixed"],
}
_EXACT = ("fp32", "fp16")


def floors(
    scheme: str, roles: Iterable[str], min_psnr: float | None = None, reduced: bool = False
) -> dict[str, Any]:
    """The floors of a scheme, as the manifest holds them; ``min_psnr`` replaces that of the final latents.

    With ``reduced`` attention the networks that have it, and what is drawn with them, have none but that.
    """
    told = FLOORS[scheme].told([role for role in roles if not (reduced and _attends(role))], min_psnr)
    if not reduced:
        return told
    return {"snr_db": told["snr_db"], **({} if min_psnr is None else {"latents_psnr_db": min_psnr})}


def _attends(role: str) -> bool:
    """Whether a network's attention is reduced where a model's is."""
    return role.endswith("denoiser") or role.startswith("control")


def judge(receipt: Mapping[str, Any], *, min_psnr: float | None = None) -> list[str]:
    """Return why packages are not to be kept, a line each with the figures; nothing if they may be."""
    scheme, reduced = receipt["scheme"], bool(receipt.get("attention"))
    reasons = below(receipt, floors(scheme, receipt["components"], min_psnr, reduced))
    for role, component in receipt["components"].items():
        reached = component["apple_psnr_db"]
        if scheme in _EXACT and reached < APPLE and not (reduced and _attends(role)):
            reasons.append(
                f"{role}: PSNR {told_db(reached)} over its largest value, the floor is {APPLE:g} dB"
            )
    return reasons
