"""Runtimes and sampler families are imported by name, so a freezer cannot see them; the embedded model is
data."""

from PyInstaller.utils.hooks import collect_data_files

hiddenimports = [
    "edgediff.runtimes.onnxruntime",
    "edgediff.samplers.ddim",
    "edgediff.samplers.dpmpp",
    "edgediff.samplers.euler",
    "edgediff.samplers.flow_euler",
    "edgediff.samplers.lcm",
    "tokenizers",
]
excludedimports = ["edgediff.export", "onnx", "torch"]
datas = collect_data_files("edgediff", includes=["bundles/**/*", "bundle.schema.json"])
