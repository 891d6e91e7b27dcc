"""Whether a quantized bundle serves its purpose: what it must hold to be written without ``--force``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgediff.export.quantize.plan import REDUCED
from edgediff.retrace import below, told_db

SLOWER = 1.3
"""How much more time than its float parent a scheme may take that is for memory."""
PURPOSES = {
    "int8": "speed", "int8-weights": "memory", "int4-weights": "memory", "fp16": "disk", "mixed": "disk",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Floor:
    """What a scheme must hold: SNR of each component's outputs, and of each quantized layer's results inside
    it; PSNR and SNR of the final latents; PSNR and SSIM of the pictures. Ratios in decibel."""

    component: float
    layer: float
    latents_psnr: float
    latents: float
    pictures: float
    ssim: float

    def told(self, roles: Iterable[str], min_psnr: float | None = None) -> dict[str, Any]:
        """As the manifest holds it; ``min_psnr`` replaces that of the final latents."""
        return {
            "snr_db": dict.fromkeys(roles, self.component),
            "latents_psnr_db": self.latents_psnr if min_psnr is None else min_psnr,
            "latents_snr_db": self.latents,
            "pictures_psnr_db": self.pictures,
            "pictures_ssim": self.ssim,
        }


# Pictures of a long walk part from each other by little at every step, so that their floors only tell those
# that have something in common from those that do not; those of the components tell more.
FLOORS: Mapping[str, Floor] = {
    "fp16": Floor(45.0, 45.0, 30.0, 20.0, 25.0, 0.9),
    "int8-weights": Floor(25.0, 15.0, 25.0, 12.0, 18.0, 0.6),
    "int8": Floor(12.0, 3.0, 20.0, 6.0, 14.0, 0.4),
    "int4-weights": Floor(8.0, 3.0, 15.0, 3.0, 10.0, 0.3),
    "mixed": Floor(8.0, 3.0, 15.0, 3.0, 10.0, 0.3),
}


def floors(scheme: str, roles: Iterable[str], min_psnr: float | None = None) -> dict[str, Any]:
    """The floors of a scheme, as the manifest holds them; ``min_psnr`` replaces that of the final latents.

    What reduced attention may cost is the caller's alone to say: there is no other floor for it.
    """
    if scheme == REDUCED:
        return {} if min_psnr is None else {"latents_psnr_db": min_psnr}
    return FLOORS[scheme].told(roles, min_psnr)


def judge(receipt: Mapping[str, Any], scheme: str, *, min_psnr: float | None = None) -> list[str]:
    """Return why a bundle is not to be kept, a line each with the figures; nothing if it serves its purpose.

    ``receipt`` is what ``export.quantize.receipt.receipt`` found. ``min_psnr`` is asked of the final latents.
    """
    components = receipt["components"]
    asked = floors(scheme, components, min_psnr)
    if scheme == REDUCED:
        return below(receipt, asked)
    reasons = below(receipt, asked)
    for role, component in components.items():
        worst = component.get("worst_layer")
        if worst is not None and worst["snr_db"] < FLOORS[scheme].layer:
            reasons.append(
                f"{role}, layer {worst['name']}: SNR {told_db(worst['snr_db'])}, the floor is "
                f"{FLOORS[scheme].layer:g} dB"
            )
        for profile, form in component["forms"].items():
            reached = form["snr_db"]
            if profile != component["form"] and reached is not None and reached < asked["snr_db"][role]:
                reasons.append(
                    f"{role}, form {profile}: SNR {told_db(reached)}, the floor is "
                    f"{asked['snr_db'][role]:g} dB"
                )
    taken = receipt.get("taken")
    purpose = PURPOSES[scheme]
    if purpose == "speed":
        reasons += _slower(taken, 1.0)
    elif purpose == "memory":
        reasons += _slower(taken, SLOWER) + _no_less_memory(taken)
    else:
        reasons += _no_smaller(receipt)
    return reasons


def _slower(taken: Mapping[str, Any] | None, most: float) -> list[str]:
    """Nothing where nothing was timed."""
    if taken is None:
        return []
    mine, parents = taken["seconds"], taken["parent_seconds"]
    if mine <= most * parents:
        return []
    allowed = "" if most == 1.0 else f", {most:g} times as long is allowed"
    return [f"a result takes {mine:.4g} s and with its float parent {parents:.4g} s{allowed}"]


def _no_less_memory(taken: Mapping[str, Any] | None) -> list[str]:
    if taken is None or taken["rss_bytes"] is None or taken["rss_bytes"] < taken["parent_rss_bytes"]:
        return []
    mine, parents = taken["rss_bytes"] / 1e6, taken["parent_rss_bytes"] / 1e6
    return [f"its graphs take {mine:.1f} MB of memory, those of its float parent {parents:.1f} MB"]


def _no_smaller(receipt: Mapping[str, Any]) -> list[str]:
    mine, parents = receipt["weights_bytes"], receipt["parent_weights_bytes"]
    if mine < parents:
        return []
    return [f"its weights have {mine} bytes, those of its float parent {parents}"]
