"""The machine card of a record."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from edgediff import cpu, machine
from edgediff.bench.record import Machine
from edgediff.threads import available_threads

_TELLING = (
    "avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "vnni", "asimddp", "i8mm",
    "bf16", "sve",
)  # fmt: skip
_PACKAGES = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-openvino", "openvino",
    "onnxruntime-ep-webgpu", "coremltools", "tokenizers", "pillow",
)  # fmt: skip
_CPUS = Path("/sys/devices/system/cpu")


def load() -> float | None:
    """Return how many processes wanted a core, on average over the last minute; None where not told."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def card(before: float | None, after: float | None) -> Machine:
    """Return what a measurement was made on; ``before`` and ``after`` are the loads around it."""
    told = machine.card()
    memory = told["memory_gib"]
    found = cpu.features()
    return Machine(
        processor=str(told["processor"]),
        features=tuple(name for name in _TELLING if name in found),
        cores=available_threads(),
        physical_cores=_physical(),
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None,
        memory_bytes=round(memory * 2**30) if isinstance(memory, float) else None,
        system=str(told["system"]),
        python=str(told["python"]),
        packages=_versions(),
        governor=_governor(),
        load_before=before,
        load_after=after,
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _physical(folder: Path = _CPUS) -> int | None:
    """Cores of the machine, several threads of one counted once."""
    places = {
        tuple(
            (each / name).read_text(encoding="ascii").strip() for name in ("physical_package_id", "core_id")
        )
        for each in folder.glob("cpu[0-9]*/topology")
        if (each / "core_id").exists() and (each / "physical_package_id").exists()
    }
    return len(places) or None


def _governor(folder: Path = _CPUS) -> str | None:
    """How Linux chooses the clock (``performance``, ``powersave``); None where it does not, or does not
    say."""
    try:
        return (folder / "cpu0/cpufreq/scaling_governor").read_text(encoding="ascii").strip()
    except OSError:
        return None
