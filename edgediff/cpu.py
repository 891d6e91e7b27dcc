"""What this machine's processor can do, as far as the choice between forms of a graph needs it."""

from __future__ import annotations

import importlib
import platform
from functools import cache
from pathlib import Path

_FAMILIES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}
# What Linux calls them; NumPy, which looks by itself, has coarser names on other systems.
_NUMPY = {"AVX2": "avx2", "AVX512_CLX": "avx512_vnni", "AVX512_ICL": "avx512_vnni", "ASIMDDP": "asimddp"}


@cache
def features() -> frozenset[str]:
    """Names of the processor's family and abilities.

    ``x86-64`` or ``arm64``; then Linux's flags (``avx2``, ``avx512_vnni``, ``avx_vnni``, ``amx_int8``,
    ``asimddp``, ``i8mm``, ...), or those of them that NumPy knows of on other systems; and ``vnni`` where
    products of unsigned and signed bytes are added up without saturation. What cannot be found out is left
    out, so that a form which needs it is not chosen.
    """
    family = _FAMILIES.get(platform.machine().lower())
    found = _linux() or _numpy()
    if found & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        found |= {"vnni"}
    return frozenset(found | ({family} if family else set()))


def _linux() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return set(value.split())
    return set()


def _numpy() -> set[str]:
    try:
        known = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
    except (ImportError, AttributeError):  # a private name of NumPy's
        return set()
    return {name for numpys, name in _NUMPY.items() if known.get(numpys)}
