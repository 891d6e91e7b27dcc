"""``edgediff doctor``: what is installed, what is wrong with it, and the command that repairs it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
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
        "cache": _cache(),
    }
    faults = _faults(facts)
    facts["coreml"] = _coreml(faults)
    facts["faults"] = faults
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for name in ("python", "system", "threads", "telemetry", "devices"):
            click.echo(f"{name:<12} {facts[name]}")
        cache = facts["cache"]
        click.echo(
            f"{'cache':<12} {cache['bytes'] / 1e6:,.1f} MB of at most {cache['limit'] / 1e6:,.0f} MB in "
            f"{cache['folder']} (edgediff cache --clear)"
        )
        for name, line in facts["coreml"].items():
            click.echo(f"{f'coreml {name}':<12} {line}")
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


def _coreml(faults: list[str]) -> dict[str, str]:
    """Say whether packages of Core ML can be made and run here; a broken coremltools becomes a fault."""
    from edgediff.cli.devices import coreml_devices

    here = f"Python {sys.version_info[0]}.{sys.version_info[1]}, {platform.system()} {platform.machine()}"
    if importlib.util.find_spec("coremltools") is None:
        export = "no: pip install 'edgediff[coreml]'"
        if not _has_wheel():
            export = f"no: coremltools needs Python 3.11 to 3.13 on Linux x86-64 or macOS, this is {here}"
    else:
        # In a process of its own: importing it takes seconds, imports PyTorch where that is, and may abort.
        done = subprocess.run(
            [sys.executable, "-c", "import coremltools"], capture_output=True, text=True, check=False
        )
        export = "yes"
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:200]
            export = f"no: coremltools cannot be imported ({reason})"
            faults.append(f"{export[4:]}; repair: pip install --force-reinstall 'edgediff[coreml]'")
    found = coreml_devices()
    if not found and sys.platform != "darwin":
        return {"export": export, "run": "no: Core ML runs on macOS alone; --runtime mil is a slow reference"}
    return {"export": export, "run": f"on {', '.join(found)}" if found else "no: it needs coremltools"}


def _cache() -> dict[str, Any]:
    """Where compiled graphs are kept, what they take and what they may take."""
    from edgediff import cache_folder

    folder = cache_folder.root()
    held = sum(entry.bytes for entry in cache_folder.entries(folder))
    return {"folder": str(folder), "bytes": held, "limit": cache_folder.LIMIT}


def _has_wheel() -> bool:
    """Whether coremltools is published for this interpreter."""
    machine = platform.machine().lower()
    fits = sys.platform == "darwin" or (sys.platform == "linux" and machine in ("x86_64", "amd64"))
    return fits and (3, 11) <= sys.version_info[:2] <= (3, 13)


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
