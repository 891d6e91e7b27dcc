"""What is drawn where nobody says."""

from __future__ import annotations

from collections.abc import Sequence

from edgediff import reference
from edgediff.bundle import Bundle
from edgediff.pipeline import EMBEDDED

_SHAPES = (
    "a red circle to the left of a blue square on a white background",
    "a large yellow star on a navy background",
    "a green triangle above a purple heart on a beige background",
    "a small orange cross in the top right on a gray background",
    "a cyan heart, a pink square and a blue circle on a black background",
    "a purple cross below a yellow square on a white background",
)
"""Captions of the kind that the embedded model, and bundles made from it, were trained on."""


def usual(bundles: Sequence[Bundle]) -> tuple[str, ...]:
    """Return the prompts of the first bundle that brings some for its evaluation.

    Without such a bundle: captions that the embedded model knows, where the reference has its vocabulary;
    else prompts for models of natural pictures.

    Raises:
        IntegrityError, BundleError: a bundle's record of its evaluation is damaged.
    """
    for bundle in bundles:
        if reference.FILE in bundle.files:
            return reference.read(bundle).prompts
    known = _vocabulary(Bundle.open(EMBEDDED)) if EMBEDDED.is_dir() else None
    return _SHAPES if known is not None and known == _vocabulary(bundles[0]) else reference.PROMPTS


def _vocabulary(bundle: Bundle) -> str | None:
    """The sha256 of a bundle's tokenizer; None where the bundle does not say it."""
    record = None if bundle.text is None else bundle.files.get(bundle.text.tokenizer)
    return None if record is None else record.sha256
