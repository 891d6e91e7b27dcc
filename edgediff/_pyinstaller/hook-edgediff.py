"""Runtimes and samplers are imported by name, so a freezer cannot see them; the embedded model is data."""

import sys
from pathlib import Path

from PyInstaller.utils.hooks import get_package_paths

_PACKAGE = Path(get_package_paths("edgediff")[1])

hiddenimports = [
    "edgediff.pipeline",
    "edgediff.prompt",
    "edgediff.runtimes.onnxruntime",
    "edgediff.runtimes.sequence",
    *(f"edgediff.runtimes.{module}" for module in ("coreml", "_coreml_child") if sys.platform == "darwin"),
    *(f"edgediff.samplers.{f.stem}" for f in (_PACKAGE / "samplers").glob("[!_]*.py")),
    "onnxruntime",
    "tokenizers",
]
excludedimports = ["edgediff.export", "huggingface_hub", "torch"]
datas = [
    (str(_PACKAGE / "bundles"), "edgediff/bundles"),
    (str(_PACKAGE / "bundle.schema.json"), "edgediff"),
]
