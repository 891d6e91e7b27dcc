"""Settings that a model was not made for: the manifest says whether a call warns or is refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from edgediff.bundle import Bundle
from edgediff.errors import InputError


def check_limits(bundle: Bundle, given: Mapping[str, float | None]) -> None:
    """Compare what a call asks for with ``defaults.limits`` of the manifest; None was not asked for.

    Raises:
        InputError: a setting is out of a range that the manifest is strict about. Else it warns.
    """
    for name, value in given.items():
        limit = bundle.defaults.limits.get(name)
        if value is None or limit is None:
            continue
        # Where guidance is no input of the network, 1 and everything below mean none: one and the same.
        least = 1.0 if name == "guidance_scale" and bundle.guidance_embedding is None else 0.0
        if max(limit.low, least) <= max(value, least) <= max(limit.high, least):
            continue
        made = f"recipe {bundle.defaults.recipe}" if bundle.defaults.recipe else "its manifest"
        wanted = (
            f"{limit.low:g}" if limit.low == limit.high else f"{limit.low:g} to {limit.high:g}"
        )  # fmt: skip
        message = f"{name}: {value:g} was asked for; this model was made for {wanted} ({made})."
        if limit.outside == "refuse":
            raise InputError(f"{message} Use that.")
        warnings.warn(message, stacklevel=5)
