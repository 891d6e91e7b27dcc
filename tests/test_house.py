"""The house's rules: who imports whom, how long files are, what importing costs, what is exported."""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgediff
from tests.facts import FACTS

ROOT = Path(__file__).parent.parent
OURS = ("edgediff", "benchmarks", "tests", "export", "runtimes")
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "optimum", "tensorflow", "jax"}
# The room of a file is its top folder; a room may import its own package and these.
ROOMS = {"edgediff": (), "runtimes": ("edgediff",), "export": ("edgediff",)}
TRACER = ROOT / "export" / "optimum" / "program.py"  # the one file that may need PyTorch


def sources(*folders: str) -> list[Path]:
    """Return the Python files of these rooms, bytecode folders left out."""
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Yield the dotted name of everything that ``file`` imports, wherever in it the statement stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import in line {node.lineno}"
            # ``from edgediff import export`` names a module as well as ``import edgediff.export`` does.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    """Return the room that owns a dotted name, None if it is not ours."""
    first, _, rest = module.partition(".")
    second = rest.partition(".")[0]
    if first == "edgediff" and second in ("export", "runtimes"):
        return second
    return first if first in OURS else None


@pytest.mark.parametrize("file", sources(*ROOMS), ids=lambda f: str(f.relative_to(ROOT)))
def test_who_imports_whom(file: Path) -> None:
    home = file.relative_to(ROOT).parts[0]
    for module in imported(file):
        owner = room_of(module)
        assert owner in (None, home, *ROOMS[home]), f"{home} must not import {module}"
        assert module.partition(".")[0] not in {"export", "runtimes"}, f"{module} is no top-level module"
        assert file == TRACER or module.partition(".")[0] not in HEAVY, f"{module} is too heavy"


@pytest.mark.parametrize("file", sources("edgediff", "runtimes"), ids=lambda f: str(f.relative_to(ROOT)))
def test_the_runtime_unpickles_nothing(file: Path) -> None:
    banned = {"pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle", "joblib"}
    assert not banned & {module.partition(".")[0] for module in imported(file)}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"{file}: allow_pickle must be False"
            assert node.value.value is False, f"{file}: allow_pickle must be False"


def test_no_file_is_long() -> None:
    files = sources("edgediff", "runtimes", "export", "benchmarks", "tests")
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    too_long = {str(f.relative_to(ROOT)): n for f, n in lines.items() if n >= 400}
    median = statistics.median(lines[f] for f in files if "tests" not in f.parts)
    FACTS.append(f"{len(files)} Python files; the median of those that are no tests is {median:.0f} lines")
    assert not too_long, too_long


def test_all_is_what_is_exported() -> None:
    tree = ast.parse((ROOT / "edgediff" / "__init__.py").read_text(encoding="utf-8"))
    (typing_only,) = [n for n in tree.body if isinstance(n, ast.If)]
    declared = [
        a.asname or a.name for n in typing_only.body if isinstance(n, ast.ImportFrom) for a in n.names
    ]
    public = [n for n in vars(edgediff) if not n.startswith("_")]
    served = {*declared, *(n for n in public if not isinstance(vars(edgediff)[n], type(ast)))}
    served -= {"annotations", "Any", "TYPE_CHECKING"}
    assert sorted(edgediff.__all__) == sorted(declared) == sorted(served)
    for name in edgediff.__all__:
        assert getattr(edgediff, name).__module__.startswith("edgediff."), name
    assert set(edgediff.__all__) < set(dir(edgediff))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        edgediff.nothing  # noqa: B018


def test_nothing_here_is_called_export() -> None:
    assert "export" not in edgediff.__all__
    assert not callable(getattr(edgediff, "export", None))


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after ``statement``."""
    script = (
        f"{statement}\nimport sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


LAZY = {
    "onnxruntime",
    "tokenizers",
    "PIL",
    "numpy",
    "click",
    "onnx",
    "safetensors",
    "huggingface_hub",
    *HEAVY,
}


def test_importing_is_cheap() -> None:
    assert not loaded_by("import edgediff") & LAZY


def test_importing_the_pipeline_loads_no_engine() -> None:
    loaded = loaded_by("from edgediff import Bundle, Pipeline")
    assert not loaded & (LAZY - {"numpy"})


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["export", "onnx", "--help"]])
def test_help_is_cheap(arguments: list[str]) -> None:
    loaded = loaded_by(f"import edgediff.cli\ntry: edgediff.cli.main({arguments})\nexcept SystemExit: pass")
    assert "click" in loaded
    assert not loaded & (LAZY - {"click"})


def test_a_picture_needs_no_heavy_module(fake_bundle: Path) -> None:
    draw = f"import edgediff; edgediff.load({str(fake_bundle)!r}, runtime='null')('a', seed=0)"
    assert not loaded_by(draw) & (HEAVY | {"onnxruntime", "onnx", "click", "huggingface_hub", "scipy"})
