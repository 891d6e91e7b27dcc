"""Core ML through coremltools: where it runs, its quiet import, and what a device's name means there."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import platform
import sys
from typing import Any

from edgediff.errors import InputError, UnsupportedError

UNITS = {
    "coreml-cpu": "CPU_ONLY",
    "coreml-gpu": "CPU_AND_GPU",
    "coreml-ne": "CPU_AND_NE",
    "coreml-all": "ALL",
}
"""Device by name, and what coremltools calls its compute units; ``coreml`` is that of the graph's form."""
_OTHERS = {
    "CPU_AND_NE": "the device coreml-gpu or coreml-cpu",
    "CPU_AND_GPU": "the device coreml-cpu",
    "ALL": "the device coreml-gpu or coreml-cpu",
    "CPU_ONLY": "--runtime mil, which is slow",
}
# The system that reads a version of the format of packages.
_SYSTEMS = {6: 12, 7: 13, 8: 14, 9: 15, 10: 26}


def on_mac() -> bool:
    """Whether this system has Core ML."""
    return sys.platform == "darwin"


def check_system() -> None:
    """Raise UnsupportedError unless this is macOS."""
    if not on_mac():
        raise UnsupportedError(
            f"runtime coreml: Core ML needs macOS, this is {platform.system()}. `--runtime mil` computes a "
            "bundle's programs here, slowly, as a reference; `edgediff export onnx` makes one that runs here."
        )


def load() -> Any:
    """Import coremltools without what it says about versions of other packages.

    Raises:
        UnsupportedError: it is missing or broken.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    try:
        return importlib.import_module("coremltools")
    except Exception as error:  # a broken installation raises whatever its parts raise
        raise UnsupportedError(
            f"runtime coreml: coremltools cannot be imported ({' '.join(str(error).split())[:200]}). "
            "Repair: pip install 'edgediff[coreml]'"
        ) from error


def devices() -> tuple[str, ...]:
    """Return the names of devices that can be asked for here, none where coremltools is missing."""
    if not on_mac() or importlib.util.find_spec("coremltools") is None:
        return ()
    named = [name for name in UNITS if name != "coreml-ne" or _has_engine()]
    return ("coreml", *named)


def _has_engine() -> bool:
    return platform.machine() == "arm64"


def units(device: str, profile: str) -> str:
    """Return the compute units of a device for a graph in the form ``profile``.

    Raises:
        InputError: there is no such device. UnsupportedError: this Mac has none.
    """
    if device in ("auto", "coreml"):
        return "CPU_AND_NE" if profile.startswith("split-einsum") and _has_engine() else "CPU_AND_GPU"
    if device == "cpu":
        return UNITS["coreml-cpu"]
    if device not in UNITS:
        raise InputError(f"device {device!r}: the coreml runtime has auto, cpu, coreml, {', '.join(UNITS)}.")
    if device == "coreml-ne" and not _has_engine():
        raise UnsupportedError(
            f"device {device}: this Mac has no Neural Engine; take coreml-gpu or coreml-cpu."
        )
    return UNITS[device]


def instead(chosen: str) -> str:
    """Return what to take where some units cannot be used."""
    return _OTHERS[chosen]


def system() -> str:
    """Return the version of macOS."""
    return platform.mac_ver()[0]


def check_version(version: int, where: str) -> None:
    """Refuse a package that needs a newer macOS than this one.

    Raises:
        UnsupportedError: it does; the message says which.
    """
    needed, found = _SYSTEMS.get(version, 0), system().partition(".")[0]
    if found.isdigit() and int(found) < needed:
        raise UnsupportedError(
            f"{where}: it needs macOS {needed}, this is {system()}; upgrade it, or export with an older "
            "--target."
        )
