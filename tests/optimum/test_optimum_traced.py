"""Families that edgediff does not write itself, traced: every graph against the module it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optimum.onnxruntime", reason="needs Optimum's stack: python -m tests --optimum --setup")

import onnx
from onnx import numpy_helper

import edgediff
from edgediff.errors import CheckFailed, InputError, UnsupportedError
from edgediff.export.main import export_onnx
from edgediff.export.optimum import program as optimum
from edgediff.runtime import find
from tests.facts import FACTS
from tests.optimum import models

ROLES = {
    "stable_diffusion_3": {"text_encoder", "text_encoder_2", "text_encoder_3"},
    "flux": {"text_encoder", "text_encoder_2"},
    "sana": {"text_encoder"},
}


@pytest.mark.parametrize("name", ROLES)
def test_traced_by_optimum(name: str, tmp_path: Path) -> None:
    getattr(models, name)(tmp_path / "torch")
    lines: list[str] = []
    summary = export_onnx(str(tmp_path / "torch"), str(tmp_path / "bundle"), report=lines.append)
    FACTS.extend(f"{name}: {line}" for line in lines if line.startswith("traced "))
    assert summary["ran"]
    assert not list(tmp_path.glob(".*"))
    bundle = edgediff.Bundle.open(tmp_path / "bundle")
    bundle.verify()
    assert bundle.family == name.replace("_", "-")
    assert set(bundle.components) == ROLES[name] | {"denoiser", "decoder", "encoder"}
    assert bundle.defaults.sampler == "flow_euler"
    with pytest.raises(InputError, match="does not do text2image"):
        edgediff.load(bundle)("a red circle")


@pytest.mark.slow
def test_traced_by_pytorch_alone(tmp_path: Path) -> None:
    """Optimum knows nothing of this family; every part goes through PyTorch's exporter."""
    pipe = models.aura_flow(tmp_path / "torch")
    lines: list[str] = []
    export_onnx(str(tmp_path / "torch"), str(tmp_path / "bundle"), report=lines.append)
    traced = [line for line in lines if line.startswith("traced ")]
    FACTS.extend(f"aura_flow: {line}" for line in traced)
    assert len(traced) == 4
    assert all("by torch.export" in line for line in traced)
    import torch

    # The bundle's own graph, of another size and batch than it was traced with.
    bundle = edgediff.Bundle.open(tmp_path / "bundle")
    spec = bundle.graph("denoiser")
    given = {
        "hidden_states": torch.randn(3, 4, 10, 6),
        "encoder_hidden_states": torch.randn(3, 11, 32),
        "timestep": torch.tensor([0.1, 0.5, 0.9]),
    }
    with torch.inference_mode():
        expected = pipe.transformer(**given, return_dict=False)[0].numpy()
    graph = find("onnxruntime").load(spec, bundle.path / spec.file, "cpu", {}, {})
    found = graph({key: value.numpy() for key, value in given.items()})["out_hidden_states"]
    assert found.shape == expected.shape
    assert float(np.abs(found - expected).max()) <= 1e-4 * max(1.0, float(np.abs(expected).max()))


@pytest.mark.slow
def test_a_squeeze_that_does_nothing_is_left_out(tmp_path: Path) -> None:
    pipe = models.pixart(tmp_path / "torch")
    optimum._by_pytorch(pipe, "transformer", tmp_path / "graphs", "not asked")
    assert optimum.difference(pipe, "transformer", tmp_path / "graphs") <= optimum.TOLERANCE
    graph = onnx.load(str(tmp_path / "graphs/transformer/model.onnx"), load_external_data=False).graph
    assert [d.dim_param for d in graph.input[0].type.tensor_type.shape.dim][2:] == ["height", "width"]


def test_small_constants_survive(tmp_path: Path) -> None:
    """PyTorch's default optimiser takes 1e-15 away, and zeros become NaN."""
    import torch

    class Ratio(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x / (torch.relu(x) + 1e-15)

    program = torch.onnx.export(
        Ratio(), (torch.ones(2, 3),), dynamo=True, optimize=False, opset_version=optimum.OPSET, verbose=False
    )
    optimum.tidied(program.model)
    program.save(str(tmp_path / "ratio.onnx"))
    session = pytest.importorskip("onnxruntime").InferenceSession(str(tmp_path / "ratio.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 3), np.float32)})
    assert np.isfinite(found).all()


def test_the_gate_shuts(tmp_path: Path) -> None:
    """A graph that is off by a little is not taken for its module."""
    pipe = models.sana(tmp_path / "torch")
    assert optimum._by_optimum(pipe, tmp_path / "graphs") is None
    assert optimum.difference(pipe, "transformer", tmp_path / "graphs") <= optimum.TOLERANCE
    path = tmp_path / "graphs" / "transformer" / "model.onnx"
    model = onnx.load(str(path))
    for change, says in ((1e-2, "differs from PyTorch"), (float("nan"), "NaN or Inf")):
        (bias,) = [t for t in model.graph.initializer if t.name == "proj_out.bias"]
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(change), bias.name))
        onnx.save(model, str(path))
        with pytest.raises(CheckFailed, match=says):
            optimum.difference(pipe, "transformer", tmp_path / "graphs")


def test_what_nobody_traces_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "torch"
    models.aura_flow(folder)
    (folder / "transformer" / "config.json").write_text('{"_class_name": "NoSuchModel"}')
    index = (folder / "model_index.json").read_text()
    (folder / "model_index.json").write_text(index.replace("AuraFlowTransformer2DModel", "NoSuchModel"))
    with pytest.raises(UnsupportedError, match=r"cannot be traced \(.*NoSuchModel"):
        export_onnx(str(folder), str(tmp_path / "bundle"))
    assert {path.name for path in tmp_path.iterdir()} == {"torch"}
