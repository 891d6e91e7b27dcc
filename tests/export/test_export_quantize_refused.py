"""What cannot be quantized so is refused before anything is calibrated or searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export_helpers import model_folder

from edgediff.errors import InputError, UnsupportedError
from edgediff.export.main import export_onnx


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"quantize": "mixed", "max_size": 0.001}, InputError, "the smallest plan has"),
        ({"quantize": "int8", "profiles": ("portable", "ort-cuda")}, UnsupportedError, "profile ort-cuda"),
        ({"quantize": "int5"}, InputError, "int8-weights"),
        ({"quantize": "int8", "max_size": 3.0}, InputError, "mixed"),
        ({"quantize": "int8", "min_psnr": -1.0}, InputError, "above 0"),
        ({"quantize": "int8", "plan": "nowhere.json"}, InputError, "no such file"),
        ({"quantize": "mixed", "max_size": 1.0, "dry_run": True}, InputError, "after its search"),
        ({"min_psnr": 30.0}, InputError, "only with quantize"),
    ],
)
def test_before_any_work(tmp_path: Path, options: Any, error: type[Exception], said: str) -> None:
    source, lines = model_folder(tmp_path / "model"), list[str]()
    with pytest.raises(error, match=said):
        export_onnx(str(source), str(tmp_path / "out"), report=lines.append, **options)
    assert not any(line.startswith(("writing", "calibrating")) for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
