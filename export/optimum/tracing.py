"""Models that no network file covers, traced by PyTorch in a process of its own (the extra ``optimum``).

The process is :mod:`edgediff.export.optimum.program`. It leaves a folder as Optimum does, and what it leaves
passes the checks that any such folder passes.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any

from edgediff.errors import CheckFailed, EdgediffError, InputError, SourceError, UnsupportedError
from edgediff.export.json_files import read_json
from edgediff.export.optimum.folder import add_manifest
from edgediff.export.sources import Source, weight_files
from edgediff.export.write import check_space, check_target

_NEEDED = ("torch", "diffusers", "transformers", "optimum", "optimum-onnx", "onnxscript")
_LIBRARIES = ("diffusers", "transformers")
_OTHERS = ("scheduler", "tokenizer", "feature_extractor", "safety_checker")
_ERRORS: Mapping[str, type[EdgediffError]] = {"unsupported": UnsupportedError, "check_failed": CheckFailed}


def missing() -> list[str]:
    """Return the packages of the extra ``optimum`` that are not installed."""
    return [name for name in _NEEDED if not _installed(name)]


def _installed(name: str) -> bool:
    if name == "optimum-onnx":  # it lies inside optimum's package
        try:
            return bool(metadata.version(name))
        except metadata.PackageNotFoundError:
            return False
    return util.find_spec(name) is not None


def trace(
    source: Source,
    out: Path,
    *,
    dtype: str = "fp32",
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Turn a diffusers folder into the bundle ``out`` by tracing; the result is that of ``export_onnx``.

    Every graph is compared with its PyTorch module on random inputs, and must stay finite on zeros.

    Raises:
        UnsupportedError: the extra is not installed, or neither Optimum nor PyTorch traces the model.
        InputError: another type than float32 was asked for.
        SourceError: the folder holds pickles, code, or no weights.
        CheckFailed: a graph's numbers are not those of its module.
    """
    say: Callable[[str], None] = report if report is not None else lambda line: None
    absent = missing()
    if absent:
        raise UnsupportedError(
            f"{source.where}: is a {source.pipeline or 'nameless model'}; edgediff itself writes the Stable "
            f"Diffusion and SDXL families. To trace others, {', '.join(absent)} must be installed: "
            "pip install torch, and then pip install 'edgediff[optimum]'."
        )
    if dtype != "fp32":
        raise InputError(f"dtype {dtype!r}: a {source.pipeline} is traced, which gives fp32.")
    check_target(out, overwrite)
    files = _weights(source)
    check_space(out, 2 * sum(file.stat().st_size for file in files))  # halves become floats
    variant = "fp16" if files and all(".fp16." in file.name for file in files) else None
    # Named so that writing the bundle tidies it up after a killed process.
    staging = out.absolute().parent / f".{out.name[:80]}.{os.getpid()}-{secrets.token_hex(4)}.partial"
    try:
        staging.mkdir()
        say(f"tracing a {source.pipeline} with PyTorch")
        for name, facts in _run(source.where, staging / "traced", variant).items():
            say(f"traced {name} by {facts['by']}; it differs from PyTorch by {facts['difference']:.1e}")
        return add_manifest(
            staging / "traced", out, overwrite=overwrite, report=report, origin=source.origin(), take=True
        )
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _weights(source: Source) -> list[Path]:
    """The files of weights, after a look that nothing in the folder is code or would be unpickled."""
    files: list[Path] = []
    for name, value in source.index.items():
        if name.startswith("_") or not isinstance(value, list) or value in ([None, None], []):
            continue
        if len(value) != 2 or value[0] not in _LIBRARIES:
            raise SourceError(
                f"{source.where}: {name} is of {str(value[0])[:60]!r}; only classes of diffusers and "
                "transformers are loaded."
            )
        if not name.startswith(_OTHERS):
            files += weight_files(source.where / name)
    return files


def _run(folder: Path, staging: Path, variant: str | None) -> dict[str, Any]:
    """Trace in a process of its own, which gives all memory back and whose libraries print elsewhere."""
    told = staging.with_suffix(".json")
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "edgediff.export.optimum.program", str(folder), str(staging), str(told)]
    done = subprocess.run(
        [*command, *([] if variant is None else [variant])],
        env={**os.environ, **quiet},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    if not told.is_file():
        last = " ".join(done.stderr.split())[-300:]
        raise CheckFailed(f"{folder}: tracing ended with status {done.returncode} ({last}).")
    result = read_json(told)
    if "error" in result:
        raise _ERRORS.get(result["error"], CheckFailed)(f"{folder}: {result['message']}")
    traced: dict[str, Any] = result["parts"]
    return traced


def save_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write what the tracing process has to say."""
    path.write_text(json.dumps(result), encoding="utf-8")
