"""Names of a package's inputs and outputs: Core ML has letters, digits and underscores alone.

A manifest names tensors as the model's ONNX graphs do, ``hidden_states.11`` say; in a package that one is
``hidden_states_11``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from edgediff.bundle import TensorSpec
from edgediff.errors import BundleError


def feature(name: str) -> str:
    """Return what coremltools calls an input or output of this name in a package."""
    plain = re.sub("[^A-Za-z0-9_]", "_", name)
    return f"_{plain}" if re.match("[0-9]", plain) else plain


def features(tensors: Sequence[TensorSpec], known: Collection[str], where: str) -> dict[str, str]:
    """Return the package's name of each tensor that a manifest lists; ``known`` are the package's own.

    Raises:
        BundleError: the package has none of that name, or two tensors would have one.
    """
    found: dict[str, str] = {}
    for tensor in tensors:
        name = tensor.name if tensor.name in known else feature(tensor.name)
        if name not in known or name in found.values():
            raise BundleError(
                f"{where}: the manifest lists {tensor.name}, the package has {', '.join(sorted(known))}; "
                "export the bundle again."
            )
        found[tensor.name] = name
    return found
