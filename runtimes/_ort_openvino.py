"""The OpenVINO plug-in: the precision that it computes in is asked for, and then measured.

On processors with bf16 units it computes in bf16 unless told, and where it lacks what it was asked for it
computes in something else and says nothing. So after each session a product is computed through the same
options whose result tells the precisions apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgediff.errors import InputError, UnsupportedError
from edgediff.protobuf import LENGTH, VARINT, tag

DEFAULT = "fp32"
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_FLOAT = 1  # of ONNX's TensorProto.DataType
_SIDE = 32
# Steps from 1: bf16 loses both, float16 the first one alone, float32 none.
_STEPS = np.array([[2**-12], [2**-9]], np.float32)
_measured: dict[str, str] = {}


def configured(precision: str, threads: int) -> dict[str, str]:
    """What the plug-in is given: the precision, and how many threads it may use (it asks no session).

    Raises:
        InputError: the precision has no name here.
    """
    if precision not in _HINTS:
        raise InputError(f"precision {precision!r} on openvino: choose one of {', '.join(_HINTS)}.")
    hints = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": str(threads)}
    return {"load_config": json.dumps({"CPU": hints})}


def with_hints(options: Mapping[str, str], hints: Mapping[str, str]) -> dict[str, str]:
    """Return options of :func:`configured` with further hints, such as the folder for a blob."""
    known = json.loads(options["load_config"])["CPU"]
    return {**options, "load_config": json.dumps({"CPU": {**known, **hints}})}


def check_precision(ort: Any, devices: Any, options: dict[str, str], precision: str) -> None:
    """Compute a product that shows the precision; once for each set of options in a process.

    Raises:
        UnsupportedError: something else is computed in than what was asked for.
    """
    key = options["load_config"]
    if key not in _measured:
        _measured[key] = _measure(ort, devices, options)
    found = _measured[key]
    if found != precision:
        raise UnsupportedError(
            f"precision {precision} on openvino: this processor computes in {found} there. "
            "bf16 takes one with AVX-512 BF16 or AMX; leave precision out for fp32."
        )


def _measure(ort: Any, devices: Any, options: dict[str, str]) -> str:
    chosen = ort.SessionOptions()
    chosen.log_severity_level = 4
    chosen.add_provider_for_devices(devices, options)
    session = ort.InferenceSession(product(), chosen)
    if session.get_providers()[0] == "CPUExecutionProvider":
        return "fp32 on ONNX Runtime's own kernels"
    x = np.repeat(1 + _STEPS, (_SIDE // 2, _SIDE - _SIDE // 2), axis=0) * np.ones(_SIDE, np.float32)
    (y,) = session.run(None, {"a": x, "b": np.eye(_SIDE, dtype=np.float32)})
    kept = {tuple(row) for row in (y == x).reshape(2, -1).T.tolist()}
    names = {(True, True): "fp32", (False, True): "fp16", (False, False): "bf16"}
    return names.get(kept.pop(), "an unknown precision") if len(kept) == 1 else "an unknown precision"


def product() -> bytes:
    """An ONNX model of one node: the matrices ``a`` and ``b``, multiplied. Written here, since the library
    installs no onnx."""
    extents = b"".join(_field(1, _number(1, _SIDE)) for _ in range(2))
    kind = _field(1, _number(1, _FLOAT) + _field(2, extents))
    ports = {name: _field(1, name.encode()) + _field(2, kind) for name in ("a", "b", "y")}
    node = _field(1, b"a") + _field(1, b"b") + _field(2, b"y") + _field(3, b"product") + _field(4, b"MatMul")
    graph = _field(1, node) + _field(2, b"probe")
    graph += _field(11, ports["a"]) + _field(11, ports["b"]) + _field(12, ports["y"])
    return _number(1, 10) + _field(7, graph) + _field(8, _number(2, 18))


def _field(number: int, content: bytes) -> bytes:
    """A message or a text, with its length; none here reaches 16 KiB."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([tag(number, LENGTH)]) + length + content


def _number(number: int, value: int) -> bytes:
    return bytes([tag(number, VARINT), value])
