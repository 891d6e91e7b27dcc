"""edgediff's own conversions of the checkpoint, by form."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.against.models import Models

FORMS: dict[str, list[str]] = {
    "fp16": ["--dtype", "fp16"],
    "int8": ["--quantize", "int8", "--no-receipt"],
    "reduced": ["--quantize", "int8", "--no-receipt", "--attention", "tiles:2@1"],
}


def finder(models: Models, given: Mapping[str, str]) -> Callable[[str], Path]:
    """Return a function that gives the bundle of a form: one of ``given``, or an export of the checkpoint.

    The latter is made by this checkout in the running Python; int8 takes some five minutes of two cores.
    """

    def find(form: str) -> Path:
        if form in given:
            return Path(given[form]).absolute()
        folder = models.folder / f"edgediff-{form}"
        if not folder.exists():
            command = [
                sys.executable, "-m", "edgediff", "export", "onnx", "-m", models.checkpoint(), folder, "-q",
                "--tiny-decoder", models.tiny(), "--profiles", "portable,ort-cpu,openvino", *FORMS[form],
            ]  # fmt: skip
            if subprocess.run(command).returncode:
                raise SystemExit(f"{' '.join(map(str, command))} failed")
        return folder

    return find
