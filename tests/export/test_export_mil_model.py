"""What a program needs: coremltools, which need not be there, and weights, which need not fit."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import textwrap
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import TINY_UNET, write_safetensors
from export_mil import Weights

from edgediff.errors import SourceError, UnsupportedError
from edgediff.export.emit import mil_model
from edgediff.export.emit.graph import Graph, Parameter
from edgediff.export.emit.mil import program
from edgediff.export.emit.mil_form import MilForm, Signature
from edgediff.export.emit.mil_weights import narrowed, reader
from edgediff.export.networks import unet2d_condition
from edgediff.export.tensors import TensorFiles

EXTENTS = {"sample": (8, 8), "encoder_hidden_states": (7,)}


def unet() -> Graph:
    return unet2d_condition.record(unet2d_condition.configure(TINY_UNET, "unet"))


def missing(name: str, *rest: Any) -> Any:
    if name == "coremltools":
        raise ModuleNotFoundError("No module named 'coremltools'")
    return importlib.import_module(name, *rest)


@pytest.mark.parametrize(
    ("platform", "machine", "version", "remedy"),
    [
        ("linux", "x86_64", (3, 12), r"pip install 'edgediff\[coreml\]'"),
        ("darwin", "arm64", (3, 12), r"pip install 'edgediff\[coreml\]'"),
        ("linux", "aarch64", (3, 12), "export on macOS or on Linux x86-64"),
        ("win32", "AMD64", (3, 12), "export on macOS or on Linux x86-64"),
        ("linux", "x86_64", (3, 14), "under Python 3.13"),
    ],
)
def test_without_coremltools(
    platform: str, machine: str, version: tuple[int, int], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mil_model.importlib, "import_module", missing)
    monkeypatch.setattr(mil_model.sys, "platform", platform)
    monkeypatch.setattr(mil_model.sys, "version_info", version)
    monkeypatch.setattr(mil_model.platform, "machine", lambda: machine)
    weights = Weights(unet())
    with pytest.raises(UnsupportedError, match=remedy):
        program(unet(), weights, MilForm(), Signature((EXTENTS,)))
    assert not weights.read


def test_without_pytorch_and_without_noise() -> None:
    """coremltools imports PyTorch where it finds it; nothing here needs it, or shows a word of its."""
    pytest.importorskip("coremltools")
    code = """
        import sys

        class Refused:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("torch", "diffusers", "transformers", "tensorflow"):
                    raise ImportError(name)

        sys.meta_path.insert(0, Refused())
        from export_helpers import TINY_UNET
        from export_mil import MilForm, Signature, Weights, program, to_model
        from edgediff.export.networks import unet2d_condition

        graph = unet2d_condition.record(unet2d_condition.configure(TINY_UNET, "unet"))
        extents = {"sample": (8, 8), "encoder_hidden_states": (7,)}
        form = MilForm()
        to_model(program(graph, Weights(graph), form, Signature((extents,))), form)
        print("torch" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_bars_come_back() -> None:
    tqdm = pytest.importorskip("tqdm")
    shown = io.StringIO()
    with redirect_stderr(shown):
        with pytest.raises(KeyError), mil_model.quiet():
            list(tqdm.tqdm(range(3)))
            raise KeyError
        assert not shown.getvalue()
        list(tqdm.tqdm(range(3)))
    assert "3/3" in shown.getvalue()


def test_beyond_half_precision() -> None:
    pytest.importorskip("coremltools")
    graph = unet()
    name = "down_blocks.0.resnets.0.conv1.weight"
    weights = Weights(graph)
    weights.arrays[name][2, 3, 1, 1] = 70000.0
    with pytest.raises(SourceError, match=r"conv1\.weight reaches 7e\+04.*Export with fp32"):
        program(graph, weights, MilForm(), Signature((EXTENTS,)))
    program(graph, weights, MilForm(half=False), Signature((EXTENTS,)))
    assert narrowed(np.float32([65504.0, -1e-9]), "x").tolist() == [65504.0, -0.0]


def test_reader(tmp_path: Path) -> None:
    """Numbers come as float32, whatever the file has, and by the file's names."""
    rng = np.random.default_rng(0)
    half, single = rng.standard_normal((3, 4)).astype(np.float16), rng.standard_normal(5).astype(np.float32)
    spoilt = np.float32([[1.0, np.nan]])
    write_safetensors(tmp_path / "x.safetensors", {"a.w": half, "a.b": single, "n": spoilt})
    read = reader(TensorFiles([tmp_path / "x.safetensors"]), {"b.weight": "a.w", "b.bias": "a.b", "bad": "n"})
    matrix = read(Parameter("b.weight", (3, 4), "weight"))
    assert matrix.dtype == np.float32
    assert np.array_equal(matrix, half.astype(np.float32))
    assert np.array_equal(read(Parameter("b.bias", (5,), "bias")), single)
    with pytest.raises(SourceError, match="holds NaN or Inf"):
        read(Parameter("bad", (1, 2), "weight"))


def test_it_is_imported_late() -> None:
    """Importing the emitter imports nothing of it."""
    code = "import sys, edgediff.export.emit.mil; print('coremltools' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
