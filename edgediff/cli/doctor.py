"""``edgediff doctor``: what is installed, what is wrong with it, and the command that repairs it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
from typing import Any

import click

from edgediff.errors import CheckFailed, EdgediffError
from edgediff.threads import available_threads

PACKAGES = ("edgediff", "numpy", "onnxruntime", "onnxruntime-gpu", "tokenizers", "pillow", "click", "onnx",
            "safetensors", "coremltools", "onnxruntime-ep-openvino")  # fmt: skip


@click.command(short_help="Check the installation and say how to repair it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(as_json: bool) -> None:
    """Report versions, devices and faults of this installation; ends with 3 if something must be repaired."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "threads": available_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
        "telemetry": _telemetry(),
    }
    faults = _faults(facts)
    facts["faults"] = faults
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for name in ("python", "system", "threads", "telemetry", "devices"):
            click.echo(f"{name:<12} {facts[name]}")
        for name, version in facts["packages"].items():
            click.echo(f"{name:<24} {version or '-'}")
    if faults and as_json:  # they stand in the object
        click.get_current_context().exit(CheckFailed.exit_code)
    if faults:
        raise CheckFailed("; ".join(faults))
    if not as_json:
        click.echo("nothing to repair")


def _faults(facts: dict[str, Any]) -> list[str]:
    """Return one sentence per fault, each with its repair; fills in the devices."""
    from edgediff import runtime
    from edgediff.pipeline import EMBEDDED

    faults = []
    facts["devices"] = []
    owners = importlib.import_module("edgediff.runtimes._ort_providers").installed_wheels()
    if len(owners) > 1:
        faults.append(
            f"{' and '.join(owners)} are both installed and overwrite each other; repair: "
            f"pip uninstall -y {' '.join(owners)} && pip install onnxruntime (or onnxruntime-gpu[cuda,cudnn])"
        )
    try:
        facts["devices"] = list(runtime.find("onnxruntime").devices())
    except EdgediffError as error:
        if len(owners) < 2:
            faults.append(str(error))
    if not EMBEDDED.is_dir():
        faults.append("the embedded model is missing; repair: pip install --force-reinstall edgediff")
    return faults


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _telemetry() -> str:
    value = os.environ.get("ORT_DISABLE_TELEMETRY")
    return (
        "off (set by the environment)"
        if value
        else "off (edgediff sets ORT_DISABLE_TELEMETRY=1 before the import)"
    )
