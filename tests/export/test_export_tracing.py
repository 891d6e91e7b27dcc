"""What is said and refused before a model is traced; tracing itself is in tests/optimum."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgediff.errors import CheckFailed, InputError, SourceError, UnsupportedError
from edgediff.export.optimum import tracing
from edgediff.export.optimum.tracing import trace
from edgediff.export.sources import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a family that edgediff does not write, as far as it is looked at here."""
    place = tmp_path / "flux"
    index: dict[str, Any] = {
        "_class_name": "FluxPipeline",
        "_diffusers_version": "0.39.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "image_encoder": [None, None],
    }
    (place / "transformer").mkdir(parents=True)
    (place / "model_index.json").write_text(json.dumps(index))
    (place / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    return place


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra were installed."""
    monkeypatch.setattr(tracing, "missing", list)


def test_the_extra_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "missing", lambda: ["optimum"])
    with pytest.raises(
        UnsupportedError, match=r"FluxPipeline.*optimum.*pip install torch.*edgediff\[optimum\]"
    ):
        trace(open_source(str(folder)), tmp_path / "bundle")


def test_what_is_missing_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_NEEDED", ("json", "surely-not-installed"))
    assert tracing.missing() == ["surely-not-installed"]


@pytest.mark.usefixtures("ready")
def test_code_is_refused(folder: Path, tmp_path: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["my_transformer", "Mine"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match="transformer is of 'my_transformer'"):
        trace(open_source(str(folder)), tmp_path / "bundle")


@pytest.mark.usefixtures("ready")
def test_pickles_are_refused(folder: Path, tmp_path: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(SourceError, match="pickled checkpoint"):
        trace(open_source(str(folder)), tmp_path / "bundle")


@pytest.mark.usefixtures("ready")
def test_other_types_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is traced, which gives fp32"):
        trace(open_source(str(folder)), tmp_path / "bundle", dtype="fp16")


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    ("told", "kind", "says"),
    [
        (None, CheckFailed, r"ended with status 9 \(it went wrong\)"),
        ({"error": "unsupported", "message": "cannot be traced (why)"}, UnsupportedError, "cannot be traced"),
        ({"error": "check_failed", "message": "differs by 1"}, CheckFailed, "differs by 1"),
    ],
)
def test_the_process_is_heard(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, Any] | None,
    kind: type[Exception],
    says: str,
) -> None:
    def run(command: list[str], **options: Any) -> Any:
        assert options["env"]["HF_HUB_OFFLINE"] == "1"
        if told is not None:
            tracing.save_result(Path(command[5]), told)
        return subprocess.CompletedProcess(command, 9, "", "it went\nwrong")

    monkeypatch.setattr(tracing.subprocess, "run", run)
    with pytest.raises(kind, match=says):
        trace(open_source(str(folder)), tmp_path / "bundle")
    assert {path.name for path in tmp_path.iterdir()} == {"flux"}
