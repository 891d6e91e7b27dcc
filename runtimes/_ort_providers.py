"""Which execution provider a device means, how it is asked for, and whether it was really taken."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgediff.errors import InputError, UnsupportedError
from edgediff.runtimes import _ort_openvino as openvino

BUILT_IN = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
PLUG_IN = {"openvino": "onnxruntime_ep_openvino", "webgpu": "onnxruntime_ep_webgpu"}
MISSING = {
    "cuda": "swap the wheel: pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "coreml": "it exists on macOS with Apple silicon alone",
    "openvino": "pip install 'edgediff[openvino]' (x86-64 Linux and Windows)",
    "webgpu": "pip install onnxruntime-ep-webgpu",
}
WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn")
_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_registered: set[str] = set()
_registering = threading.Lock()


def import_onnxruntime() -> Any:
    """Import onnxruntime with its telemetry off.

    Since 1.29 it records and sends usage unless the variable is set before the import; afterwards is too
    late, so a host application that imported it first is warned, once.

    Raises:
        UnsupportedError: it is missing or broken; the message holds the command that repairs it.
    """
    already = "onnxruntime" in sys.modules
    if already and not os.environ.get(_TELEMETRY):
        warnings.warn(
            f"onnxruntime was imported before edgediff and {_TELEMETRY}=1 was not set, so its telemetry may "
            "be on; "
            "set that variable before the first import.",
            stacklevel=2,
        )
    os.environ.setdefault(_TELEMETRY, "1")
    owners = installed_wheels()
    if len(owners) > 1:
        raise UnsupportedError(
            f"{' and '.join(owners)} are both installed and overwrite each other. "
            f"Repair: pip uninstall -y {' '.join(owners)} && pip install onnxruntime"
        )
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        hint = "pip install onnxruntime"
        if sys.platform == "win32" and "DLL" in str(error):
            hint = "install the newest Microsoft Visual C++ redistributable (x64)"
        raise UnsupportedError(f"onnxruntime cannot be imported ({error}). Repair: {hint}") from error


def installed_wheels() -> list[str]:
    """Return the installed distributions that own the package onnxruntime; two of them overwrite each other.

    Read from the names of their ``.dist-info`` folders: importing importlib.metadata, with the mail parser
    that it needs, costs a twentieth of each start.
    """
    found = set()
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")  # noqa: PTH208  (a Path for each entry of a site costs more)
        except OSError:  # an archive, or a folder that is not there
            continue
        for name in names:
            if name.startswith("onnxruntime") and name.endswith(".dist-info"):
                found.add(name.partition("-")[0].replace("_", "-").lower())
    return [name for name in WHEELS if name in found]


def devices() -> Sequence[str]:
    """Return the devices that can be asked for here, ``cpu`` first."""
    ort = import_onnxruntime()
    available = set(ort.get_available_providers())
    built_in = [device for device, provider in BUILT_IN.items() if provider in available]
    return tuple(built_in + [d for d, package in PLUG_IN.items() if importlib.util.find_spec(package)])


def select(
    ort: Any,
    device: str,
    session_options: Any,
    precision: str | None = None,
    threads: int = 1,
    hints: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Ask for ``device``; returns what ``InferenceSession`` is to be called with besides the options.

    ``precision`` is what is computed in where graphs hold float32: ``bf16`` on openvino, else fp32 alone.
    ``hints`` are further ones for openvino. CUDA is told to compute float32 as such, not in TF32's 10 bits.

    Raises:
        InputError: no such device or precision. UnsupportedError: it is not available here.
    """
    if precision not in (None, openvino.DEFAULT) and device != "openvino":
        raise InputError(
            f"precision {precision!r} on {device}: a graph is computed there in the types that it holds; "
            "leave precision out, or take the device openvino."
        )
    if device in BUILT_IN:
        if BUILT_IN[device] not in ort.get_available_providers():
            raise UnsupportedError(
                f"device {device}: this onnxruntime has no {BUILT_IN[device]}; {MISSING[device]}."
            )
        if device == "cuda" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        fallback = [] if device == "cpu" else [BUILT_IN["cpu"]]
        first = (BUILT_IN[device], {"use_tf32": "0"}) if device == "cuda" else BUILT_IN[device]
        return {"providers": [first, *fallback]}
    if device not in PLUG_IN:
        raise InputError(
            f"device {device!r} is unknown; choose one of auto, {', '.join([*BUILT_IN, *PLUG_IN])}."
        )
    try:
        package = importlib.import_module(PLUG_IN[device])
    except ImportError as error:
        raise UnsupportedError(
            f"device {device}: {PLUG_IN[device]} is not installed; {MISSING[device]}."
        ) from error
    name = package.get_ep_name()
    try:
        with _registering:  # graphs are loaded side by side, and a library can be registered once
            if name not in _registered:
                ort.register_execution_provider_library(name, package.get_library_path())
                _registered.add(name)
        found = [d for d in ort.get_ep_devices() if d.ep_name == name]
    except Exception as error:
        raise UnsupportedError(f"device {device}: its library cannot be loaded ({error}).") from error
    if not found:
        raise UnsupportedError(f"device {device}: the plug-in found no hardware that it can drive.")
    if device == "openvino":
        wanted = openvino.DEFAULT if precision is None else precision
        options = openvino.configured(wanted, threads)
        try:
            with _registering:
                openvino.check_precision(ort, found[:1], options, wanted)
        except UnsupportedError:
            raise
        except Exception as error:
            line = " ".join(str(error).split())[:200]
            raise UnsupportedError(
                f"device {device}: a product cannot be computed in {wanted} ({line}); "
                "leave precision out for fp32, or take the device cpu."
            ) from error
        # The compiler sees the graph as it was written. ONNX Runtime's rewriting is for its own kernels, and
        # would first widen all weights in half precision (3.6 GB more at the peak for SD 1.5's U-Net).
        session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session_options.add_provider_for_devices(found[:1], openvino.with_hints(options, hints or {}))
    else:
        session_options.add_provider_for_devices(found[:1], {})
    return {}


def check_taken(device: str, taken: str, session: Any) -> None:
    """Raise UnsupportedError unless the session's first provider is the one asked for."""
    wanted = BUILT_IN.get(device)
    on_cpu_only = taken == BUILT_IN["cpu"] and len(session.get_providers()) == 1
    if (wanted is not None and taken != wanted) or (wanted is None and on_cpu_only):
        raise UnsupportedError(
            f"device {device}: onnxruntime fell back to {taken}; "
            f"{MISSING.get(device, 'its libraries are missing')}."
        )


def provider_of(device: str, session: Any) -> str:
    """Return the provider's name as onnxruntime reports it."""
    del device
    return str(session.get_providers()[0])


def nodes_per_provider(session: Any) -> dict[str, int]:
    """Return how many nodes of the optimised graph each provider runs (empty where the build cannot tell)."""
    counts: Counter[str] = Counter()
    try:
        for part in session.get_provider_graph_assignment_info():
            counts[part.ep_name] += len(part.get_nodes())
    except Exception:  # older builds lack the call, and it must never cost a picture
        return {}
    return dict(counts)
