"""A checkpoint's tensors as the numbers that a program's constants hold, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import SourceError
from edgediff.export.emit.codes_stored import runs
from edgediff.export.emit.graph import Parameter
from edgediff.export.tensors import Tensors

Read = Callable[[Parameter], NDArray[np.float32]]
"""Gives all of a parameter, in its own shape."""


def reader(tensors: Tensors, names: Mapping[str, str]) -> Read:
    """Reads parameters from a checkpoint; ``names`` maps a parameter's name to its tensor's.

    What it gives raises SourceError for a tensor that holds NaN or Inf.
    """

    def read(parameter: Parameter) -> NDArray[np.float32]:
        whole = np.empty(parameter.shape, np.float32)
        at = 0
        for run in runs(tensors, names[parameter.name]):
            # Checkpoints store some linear layers as convolutions of 1x1, and the other way round.
            whole[at : at + len(run)] = run.reshape(-1, *parameter.shape[1:])
            at += len(run)
        return whole

    return read


def narrowed(array: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    """Numbers of the parameter ``name`` in float16.

    Raises:
        SourceError: float16 cannot hold one of them.
    """
    with np.errstate(over="ignore"):
        made = array.astype(np.float16)
    if not np.isfinite(made).all():
        raise SourceError(
            f"{name} reaches {float(np.abs(array).max()):.4g}, which float16 cannot hold. Export with fp32."
        )
    return made
