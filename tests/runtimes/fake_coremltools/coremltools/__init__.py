"""As much of coremltools on macOS as the runtime uses, on any system: it computes with the interpreter.

The environment says what goes wrong: ``FAKE_COREML`` holds words such as ``abort-compile``,
``abort-load-CPU_AND_NE`` (the process ends), ``fail-load-ALL`` (an exception) and ``wrong-CPU_AND_GPU``
(finite numbers that are wrong). Every call is a line of the file ``FAKE_COREML_LOG``.
"""

import enum
import os
import shutil
from pathlib import Path

__version__ = "9.0"


class ComputeUnit(enum.Enum):
    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


def said(word):
    """Whether the environment asks for a fault; also writes down that it was asked."""
    return word in os.environ.get("FAKE_COREML", "").split()


def log(line):
    with Path(os.environ["FAKE_COREML_LOG"]).open("a") as stream:
        stream.write(f"{line}\n")


class _Compiled:
    def __init__(self, path, compute_units=ComputeUnit.ALL, function_name=None, optimization_hints=None,
                 asset=None):  # fmt: skip
        if not isinstance(path, str):
            raise TypeError('The "path" parameter must be of type "str".')
        if not isinstance(compute_units, ComputeUnit):
            raise TypeError('The "compute_units" parameter must be of type: "coremltools.ComputeUnit".')
        units = compute_units.name
        log(f"load {units}")
        if said(f"abort-load-{units}"):
            os.abort()
        if said(f"fail-load-{units}"):
            raise RuntimeError("Error compiling model: not enough memory for the program")
        if not (Path(path) / "coremldata.bin").is_file():
            raise RuntimeError("Unable to load model: compiled model is damaged")
        from edgediff.bundle import GraphSpec, TensorSpec
        from edgediff.mil_spec import read_spec
        from edgediff.runtimes import mil

        inner = "package.mlpackage/Data/com.apple.CoreML/model.mlmodel"
        spec = read_spec(Path(path) / inner)
        both = (spec.inputs, spec.outputs)
        ports = (tuple(TensorSpec(f.name, f.dtype, f.shape) for f in each) for each in both)
        graph = GraphSpec("coreml", "original", inner, "fp32", *ports)
        self._graph = mil.runtime().load(graph, Path(path) / inner, "auto", {}, {})
        self._wrong = said(f"wrong-{units}")

    def predict(self, data, state=None):
        if type(data) is not dict:
            raise TypeError(f'"data" parameter must be either a dict or list of dict, but got {type(data)}.')
        for spec in self._graph.info.inputs:
            if spec.name not in data:
                raise RuntimeError(f"Feature {spec.name} is required but not specified.")
        log("predict")
        found = self._graph(data)
        return {name: -value if self._wrong else value for name, value in found.items()}


def _compile_model(model, destination_path=None):
    if not model.rstrip("/").endswith((".mlpackage", ".mlmodel")):
        raise ValueError(f"Invalid model file path: '{model}'.")
    if destination_path is not None and not destination_path.rstrip("/").endswith(".mlmodelc"):
        raise Exception('"destination_path" parameter must have ".mlmodelc" file extension.')
    log("compile")
    if said("abort-compile"):
        os.abort()
    if said("fail-compile"):
        raise RuntimeError("Error compiling model: unable to parse the program")
    if any(file.is_symlink() for file in Path(model).rglob("*")):
        raise RuntimeError("a package of links")
    destination = Path(destination_path)
    destination.mkdir()
    shutil.copytree(model, destination / "package.mlpackage")
    (destination / "coremldata.bin").write_bytes(b"compiled")
    return destination_path


class utils:
    # a module in coremltools
    compile_model = staticmethod(_compile_model)


class models:
    CompiledMLModel = _Compiled
    utils = utils
