"""The receipt of Core ML packages: what it measures, and that it notices programs that are wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_folders import manifest
from export_helpers import model_folder

from edgediff import retrace
from edgediff.bundle import Bundle
from edgediff.export.coreml import gates, receipt
from edgediff.export.coreml.main import export_coreml
from edgediff.export.emit.graph import Kind
from edgediff.export.emit.mil_form import Signature
from edgediff.export.emit.ops import Ops
from edgediff.mil_blob import Blobs
from edgediff.mil_scan import scan
from edgediff.mlpackage import open_package

pytest.importorskip("coremltools")
pytestmark = pytest.mark.slow
WEIGHTS = "coreml/Unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("receipt") / "model")


@pytest.fixture(scope="module")
def proven(tiny: Path) -> Path:
    out = tiny.parent / "proven"
    export_coreml(str(tiny), str(out))
    return out


def listed_again(folder: Path, name: str) -> None:
    """Let the manifest say what a file holds now."""
    told, data = manifest(folder), (folder / name).read_bytes()
    told["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "edgediff.json").write_text(json.dumps(told))


def largest(folder: Path) -> tuple[int, int]:
    """Offset and size of the largest array among the denoiser's weights."""
    package = open_package(folder / "coreml" / "Unet.mlpackage")
    with Blobs(package.weights) as blobs:
        spec = scan(package)
        places = [
            blobs.place(constant.value, constant.type)
            for operation in spec.main.block.walk()
            for _, constant in operation.constants()
            if type(constant.value).__name__ == "Blob"
        ]
    return max(places, key=lambda place: place[1])


@pytest.mark.parametrize("how", ["turned", "zero", "not finite"])
def test_a_program_with_other_weights_is_noticed(how: str, proven: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(proven, tmp_path / "broken"))
    offset, size = largest(folder)
    raw = bytearray((folder / WEIGHTS).read_bytes())
    numbers = np.frombuffer(raw, np.float16, size // 2, offset)
    wrong = {
        "turned": numbers[::-1],
        "zero": 0 * numbers,
        "not finite": np.full_like(numbers, np.nan),
    }
    raw[offset : offset + size] = wrong[how].tobytes()
    (folder / WEIGHTS).write_bytes(bytes(raw))
    listed_again(folder, WEIGHTS)
    told = retrace.measure(Bundle.open(folder), runtime="mil")
    assert told["components"]["denoiser"]["snr_db"] < 30
    assert retrace.below(told, manifest(folder)["quality"]["floors"])


def test_what_was_measured_is_measured_again(proven: Path) -> None:
    kept = manifest(proven)["quality"]
    again = retrace.measure(Bundle.open(proven), runtime="mil")
    assert not retrace.below(again, kept["floors"])
    for role, component in kept["components"].items():
        assert abs(component["snr_db"] - again["components"][role]["snr_db"]) < 0.5, role
    assert abs(kept["latents_psnr_db"] - again["latents_psnr_db"]) < 0.5


def test_inputs_are_repeated_to_fill_a_size() -> None:
    picture = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    found = receipt._filled(picture, (5, 6))
    assert found.shape == (1, 1, 5, 6)
    np.testing.assert_array_equal(found[0, 0], np.tile(picture[0, 0], (2, 2))[:5, :6])
    np.testing.assert_array_equal(receipt._filled(picture, (3, 4)), picture)
    np.testing.assert_array_equal(receipt._filled(picture, (2, 2))[0, 0], picture[0, 0, :2, :2])


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_rows_go_through_programs_of_any_batch(batch: int) -> None:
    ops = Ops("rows")
    sample = ops.input("sample", Kind.IMAGE, 2, "height", "width")
    words = ops.input("words", Kind.TOKENS, 3, "length")
    ops.input("timestep", Kind.TIME)
    ops.output("out", ops.affine(sample, 2.0), "height", "width")
    ops.output("said", words, "length")
    graph = ops.graph()
    signature = Signature(
        ({},), batch, {"out": "noise_pred"}, channels_first=frozenset({"words", "said"}), time_rows=True
    )
    seen = []

    def program(fed: Any) -> Any:
        seen.append({name: value.shape for name, value in fed.items()})
        return {"noise_pred": 2 * fed["sample"], "said": fed["words"]}

    rng = np.random.default_rng(0)
    inputs = {
        "sample": rng.standard_normal((3, 2, 4, 4), np.float32),
        "words": rng.standard_normal((3, 5, 3), np.float32),
        "timestep": np.array([7.0], np.float32),
    }
    found = receipt._run(program, graph, signature, inputs)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found["out"], 2 * inputs["sample"])
    np.testing.assert_array_equal(found["said"], inputs["words"])
    assert len(seen) == -(-3 // batch)
    assert seen[0] == {"sample": (batch, 2, 4, 4), "words": (batch, 3, 1, 5), "timestep": (batch,)}


def told(scheme: str, snr: float, apple: float) -> dict[str, Any]:
    component = {"snr_db": snr, "psnr_db": snr + 20, "apple_psnr_db": apple}
    return {"scheme": scheme, "components": {"denoiser": component}}


def test_gates() -> None:
    assert gates.judge(told("fp16", 50.0, 60.0)) == []
    (reason,) = gates.judge(told("fp16", 50.0, 34.0))
    assert "34.0 dB" in reason and "35 dB" in reason
    assert gates.judge(told("palette-4", 12.0, 30.0)) == []
    (reason,) = gates.judge(told("palette-4", 5.0, 30.0))
    assert reason.startswith("denoiser: SNR 5.0 dB")
    asked = {**told("palette-4", 12.0, 30.0), "latents_psnr_db": 38.0}
    assert gates.judge(asked, min_psnr=37.0) == []
    assert "40" in gates.judge(asked, min_psnr=40.0)[0]


def test_every_scheme_has_floors() -> None:
    from edgediff.export.coreml.schemes import NAMES

    assert set(gates.FLOORS) == {"fp32", "fp16", *NAMES}
