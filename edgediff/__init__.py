"""edgediff: diffusion models inside an app, without PyTorch.

>>> import edgediff
>>> pipe = edgediff.load()
>>> picture = pipe("a red circle on a white background", seed=0).images[0]

Importing this package loads the standard library alone; NumPy, ONNX Runtime, tokenizers and Pillow are
imported when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgediff.bundle import Bundle as Bundle
    from edgediff.errors import BundleError as BundleError
    from edgediff.errors import BusyError as BusyError
    from edgediff.errors import CancelledError as CancelledError
    from edgediff.errors import CheckFailed as CheckFailed
    from edgediff.errors import EdgediffError as EdgediffError
    from edgediff.errors import InputError as InputError
    from edgediff.errors import IntegrityError as IntegrityError
    from edgediff.errors import NumericError as NumericError
    from edgediff.errors import ResourceError as ResourceError
    from edgediff.errors import SafetyBlocked as SafetyBlocked
    from edgediff.errors import SourceError as SourceError
    from edgediff.errors import UnsupportedError as UnsupportedError
    from edgediff.output import Output as Output
    from edgediff.pipeline import Pipeline as Pipeline
    from edgediff.pipeline import load as load
    from edgediff.prompt import PromptTruncated as PromptTruncated
    from edgediff.sampler import Step as Step

__version__ = "0.1.0"

_HOMES = {
    "edgediff.bundle": ("Bundle",),
    "edgediff.errors": (
        "BundleError", "BusyError", "CancelledError", "CheckFailed", "EdgediffError", "InputError",
        "IntegrityError", "NumericError", "ResourceError", "SafetyBlocked", "SourceError", "UnsupportedError",
    ),
    "edgediff.output": ("Output",),
    "edgediff.pipeline": ("Pipeline", "load"),
    "edgediff.prompt": ("PromptTruncated",),
    "edgediff.sampler": ("Step",),
}  # fmt: skip
_HOME = {name: module for module, exported in _HOMES.items() for name in exported}

__all__ = [
    "Bundle", "BundleError", "BusyError", "CancelledError", "CheckFailed", "EdgediffError", "InputError",
    "IntegrityError", "NumericError", "Output", "Pipeline", "PromptTruncated", "ResourceError",
    "SafetyBlocked", "SourceError", "Step", "UnsupportedError", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgediff' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
