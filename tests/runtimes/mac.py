"""This machine as a Mac: a stand-in for coremltools, in this process and in those that it starts."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from edgediff.runtimes import _coreml_tools as tools

FAKE = Path(__file__).parent / "fake_coremltools"
ROOT = Path(__file__).parents[2]


class Mac:
    """What the stand-in was asked, and what it shall do wrong."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch = patch
        self._log = folder / "coreml.log"
        self._log.touch()
        self.cache = folder / "cache" / "edgediff" / "coreml"
        self.system("15.3.1")
        patch.setattr(tools, "on_mac", lambda: True)
        patch.setattr("platform.machine", lambda: "arm64")
        patch.setenv("EDGEDIFF_CACHE", str(folder / "cache" / "edgediff"))
        patch.setenv("FAKE_COREML_LOG", str(self._log))
        before = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE), *([before] if before else [])]))
        patch.setitem(sys.modules, "coremltools", fake())

    def system(self, version: str) -> None:
        """Be this version of macOS."""
        self._patch.setattr(tools, "system", lambda: version)

    def fails(self, *words: str) -> None:
        """Do these things wrong from now on; see the stand-in's own text."""
        self._patch.setenv("FAKE_COREML", " ".join(words))

    def calls(self) -> list[str]:
        """What was asked since the last time."""
        lines = self._log.read_text().splitlines()
        self._log.write_text("")
        return lines

    def entries(self) -> list[Path]:
        """The compiled models in the cache."""
        return sorted(self.cache.glob("*/*/model.mlmodelc"))


def fake() -> Any:
    """Return the stand-in as a module."""
    spec = importlib.util.spec_from_file_location("coremltools", FAKE / "coremltools" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
