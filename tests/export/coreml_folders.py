"""Model folders that Core ML packages are made of, and what was written of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgediff.mil_spec import Spec, read_spec
from edgediff.mlpackage import open_package

pytest.importorskip("coremltools")

SCALED: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
}
"""The noise schedule that Apple's package has."""


def specs(folder: Path) -> dict[str, Spec]:
    """What every package below a folder says of itself, by its path without the ending."""
    return {
        path.relative_to(folder).as_posix().removesuffix(".mlpackage"): read_spec(open_package(path).model)
        for path in sorted(folder.rglob("*.mlpackage"))
    }


def ports(spec: Spec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every input."""
    return {feature.name: (feature.dtype, feature.shape) for feature in spec.inputs}


def manifest(folder: Path, name: str = "edgediff.json") -> dict[str, Any]:
    """The JSON file that says what a folder is."""
    return dict(json.loads((folder / name).read_text(encoding="utf-8")))
