"""Quantizers that are wrong, and bundles that are damaged: each gate stops them, from the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_helpers import DDIM, TINY_UNET, model_folder

from edgediff import cli
from edgediff.export.emit import codes, codes_stored
from edgediff.export.emit.integers import Span
from edgediff.export.quantize import driver
from edgediff.export.quantize.calibrate import Calibration, observe

pytestmark = pytest.mark.slow

Capsys = pytest.CaptureFixture[str]
WIDE = {"block_out_channels": [32, 64], "cross_attention_dim": 16, "sample_size": 8}
TEXTS = "a b\nc a\n"
FEW = {"num_inference_steps": 4, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # What a random network calls noise makes samples grow without bound, and no range fits all steps.
    scheduler = {**DDIM, "prediction_type": "v_prediction"}
    folder = tmp_path_factory.mktemp("broken") / "model"
    made = model_folder(folder, unet={**TINY_UNET, **WIDE}, scheduler=scheduler)
    for name in ("calibration.txt", "evaluation.txt"):
        (made / name).write_text(TEXTS)
    (made / "edgediff_defaults.json").write_text(json.dumps({"defaults": FEW}))
    return made


@pytest.fixture(scope="module")
def sound(model: Path) -> Path:
    """The model in int8; kept also where the machine finds so small a one no faster."""
    out = model.with_name("sound")
    with pytest.MonkeyPatch.context() as patched:
        untimed(patched)
        assert command("export", "onnx", "-m", model, out, "--quantize", "int8", "-q") == 0
    return out


def command(*arguments: Any) -> int:
    """The exit status of a command line."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(each) for each in arguments])
    return int(ended.value.code or 0)


def untimed(patched: pytest.MonkeyPatch) -> None:
    """Measure quality alone: whether a tiny model is faster is chance."""
    patched.setattr(driver, "receipt", partial(driver.receipt, timed=False))


def shifted_zero_point(patched: pytest.MonkeyPatch) -> None:
    """Codes around another zero than the graph says: unsigned ones of weights."""
    right = codes.zero_point

    def wrong(coding: Any) -> int:
        return max(0, right(coding) - (32 if coding.bits == 8 else 4))

    patched.setattr(codes, "zero_point", wrong)


def swapped_scales(patched: pytest.MonkeyPatch) -> None:
    """Each channel or block is counted in the scale of another, a quarter to four times its own."""

    def wrong(array: Any, scales: Any, coding: Any) -> Any:
        uneven = scales * np.linspace(0.25, 4.0, scales.size, dtype=np.float32).reshape(scales.shape)
        return codes.encode(array, np.roll(uneven.ravel(), scales.size // 2).reshape(scales.shape), coding)

    patched.setattr(codes_stored, "encode", wrong)


def swapped_spans(patched: pytest.MonkeyPatch) -> None:
    """Activations of one layer are rounded by the range of another, and clipped at a twentieth."""

    def wrong(*given: Any, **named: Any) -> Calibration:
        seen = observe(*given, **named)
        turned = {
            role: {
                value: Span(span.low / 20, span.high / 20)
                for value, span in zip(spans, list(spans.values())[::-1], strict=True)
            }
            for role, spans in seen.spans.items()
        }
        return replace(seen, spans=turned)

    patched.setattr(driver, "observe", wrong)
    # What mends sound plans would mend this one too, by leaving its layers in float.
    patched.setattr(driver, "repaired", lambda parent, model, plan, *given, **named: plan)


FAULTS: dict[tuple[str, str], Callable[[pytest.MonkeyPatch], None]] = {
    ("wrong zero point", "int8-weights"): shifted_zero_point,
    ("wrong zero point", "int4-weights"): shifted_zero_point,
    ("scales swapped", "int8"): swapped_scales,
    ("scales swapped", "int8-weights"): swapped_scales,
    ("ranges swapped", "int8"): swapped_spans,
}


@pytest.mark.parametrize(("fault", "scheme"), FAULTS)
def test_a_wrong_quantizer_is_refused_at_export(
    fault: str, scheme: str, model: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    untimed(monkeypatch)
    FAULTS[fault, scheme](monkeypatch)
    assert command("export", "onnx", "-m", model, tmp_path / "out", "--quantize", scheme) == 3
    said = capsys.readouterr().err
    assert f"{scheme} does not serve its purpose" in said
    assert "denoiser: SNR" in said
    assert "the floor is" in said
    assert list(tmp_path.iterdir()) == []  # neither the bundle nor anything beside it


def test_what_was_kept_by_force_says_so_and_fails_again(
    model: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    untimed(monkeypatch)
    swapped_scales(monkeypatch)
    out = tmp_path / "out"
    assert command("export", "onnx", "-m", model, out, "--quantize", "int8", "--force") == 0
    assert json.loads((out / "edgediff.json").read_text())["quality"]["failed"]
    capsys.readouterr()
    assert command("verify", out, "--quality") == 3  # measured again, by the record of the float parent
    assert "the floor is" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["int8", "int8-weights", "int4-weights"])
def test_not_a_number_is_refused_whatever_is_asked(
    scheme: str, model: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(runs: Any, coding: Any) -> Any:
        scales = codes.scales_of(runs, coding)
        scales.flat[scales.size // 2] = np.nan
        return scales

    monkeypatch.setattr(codes_stored, "scales_of", wrong)
    out = tmp_path / "out"
    assert command("export", "onnx", "-m", model, out, "--quantize", scheme, "--force") != 0
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_sound_bundle_passes_every_gate(sound: Path, capsys: Capsys) -> None:
    assert command("verify", sound) == 0
    assert command("verify", sound, "--quality") == 0
    assert "failed" not in json.loads((sound / "edgediff.json").read_text())["quality"]
    capsys.readouterr()


def other_numbers(name: str, array: Any) -> Any:
    """Another zero point than that of the graph."""
    bounds = {"int8": (-127, 127), "uint8": (0, 255)}.get(array.dtype.name)
    return None if bounds is None else np.clip(array.astype(np.int16) + 32, *bounds)


def other_scales(name: str, array: Any) -> Any:
    return np.roll(array, array.size // 2 + 1) * 2 if name.endswith(".scales") else None


def no_numbers(name: str, array: Any) -> Any:
    return np.full_like(array, np.nan) if name.endswith(".scales") else None


DAMAGES = {"wrong zero point": other_numbers, "scales swapped": other_scales, "NaN": no_numbers}


def damaged(bundle: Path, target: Path, damage: Callable[[str, Any], Any], told: bool) -> Path:
    """A copy of a bundle with other bytes of its U-Net's weights; ``told``: the manifest lists them so."""
    shutil.copytree(bundle, target)
    place = "unet/model.onnx_data"
    data = bytearray((target / place).read_bytes())
    kinds = {onnx.TensorProto.FLOAT: "<f4", onnx.TensorProto.INT8: "i1", onnx.TensorProto.UINT8: "u1"}
    for entry in onnx.load(str(target / "unet/model.onnx"), load_external_data=False).graph.initializer:
        if entry.external_data and entry.data_type in kinds:
            at = {pair.key: pair.value for pair in entry.external_data}
            first, length = int(at["offset"]), int(at["length"])
            array = np.frombuffer(bytes(data[first : first + length]), kinds[entry.data_type])
            other = damage(entry.name, array)
            if other is not None:
                data[first : first + length] = other.astype(array.dtype).tobytes()
    assert data != (target / place).read_bytes()
    (target / place).write_bytes(data)
    if told:
        manifest = json.loads((target / "edgediff.json").read_text())
        manifest["files"][place] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (target / "edgediff.json").write_text(json.dumps(manifest))
    return target


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("check", [(), ("--quality",)], ids=["verify", "verify --quality"])
def test_a_damaged_bundle_is_found(
    check: tuple[str, ...], damage: str, sound: Path, tmp_path: Path, capsys: Capsys
) -> None:
    broken = damaged(sound, tmp_path / "broken", DAMAGES[damage], told=True)
    assert command("verify", broken, *check) == 3
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "denoiser" in said


@pytest.mark.parametrize("check", [(), ("--quality",)], ids=["verify", "verify --quality"])
def test_bytes_that_the_manifest_does_not_tell_are_found_first(
    check: tuple[str, ...], sound: Path, tmp_path: Path, capsys: Capsys
) -> None:
    broken = damaged(sound, tmp_path / "broken", other_scales, told=False)
    assert command("verify", broken, *check) != 0
    assert "unet/model.onnx_data" in capsys.readouterr().err
