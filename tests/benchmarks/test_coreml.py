"""What the benchmarks of Core ML compute from what they measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import coreml_export, coreml_page
from benchmarks.coreml_accuracy import begun
from benchmarks.coreml_steps import apple_timesteps
from benchmarks.quantize_export import Ran

JUDGED: dict[str, Any] = {
    "accuracy": {"share": 0.75},
    "difference": {"points": -1.5, "low": -3.0, "high": 0.5},
    "latents_psnr_db": 41.25,
    "pictures_psnr_db": 30.0,
    "packages": {"UnetChunk1": 2_000_000, "UnetChunk2": 1_000_000, "VAEDecoder": 500_000},
    "export": {"refused": None},
}
MACHINE = {"cores": 2, "processor": "Example"}


def test_timesteps_are_those_of_diffusers() -> None:
    """Its DPM-Solver++ with the spacing ``linspace``, which Apple's says that it matches."""
    diffusers = pytest.importorskip("diffusers")
    for steps in (1, 2, 3, 4, 5, 8, 20, 25, 50):
        scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="linspace")
        scheduler.set_timesteps(steps)
        found = apple_timesteps(steps)
        # NumPy rounds halves to even, Swift away from zero.
        assert max(abs(a - b) for a, b in zip(found, scheduler.timesteps.tolist(), strict=True)) <= 1
        assert (found[0], len(found)) == (999, steps)


def test_accuracy_counts_all_chunks() -> None:
    refused = {**JUDGED, "export": {"refused": "measuring\nedgediff: latents: 12 dB, the floor is 20 dB"}}
    record = {
        "captions": 100,
        "steps": 4,
        "parent": {"accuracy": {"share": 0.765}, "weight_bytes": {"denoiser": 12_000_000, "decoder": 10}},
        "rows": {"fp16": JUDGED, "palette-2": refused},
    }
    text = coreml_page.accuracy(record)
    assert "| `fp16` | 75.0 % | -1.5 (-3.0 to +0.5) | 41.2 dB | 30.0 dB | 3.50 MB | 3.00 MB |" in text
    assert "| ONNX, float32 | 76.5 % |  |  |  | 12.00 MB | 12.00 MB |" in text
    assert "`palette-2` was refused, and kept with `--force`: latents: 12 dB, the floor is 20 dB" in text


def test_exports_are_listed() -> None:
    row = {"runs": 3, "seconds": 61.4, "peak_rss_mb": 4321, "packages": {"Unet": 430_000_000, "Other": 1}}
    record = {"machine": MACHINE, "checkpoint": "float16", "exports": {"sd15, palette-4, receipt off": row}}
    line = "| sd15, palette-4, receipt off | 3 | 61 s | 4.3 GB | 0.43 GB | 0.43 GB |"
    assert line in coreml_page.exports(record)


def test_the_page_is_what_the_records_say() -> None:
    text = coreml_page.PAGE.read_text(encoding="utf-8")
    assert coreml_page.page(text) == text


def test_a_record_of_other_captions_is_not_continued(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    out.write_text(json.dumps({"captions": 100, "rows": {"fp16": JUDGED}}))
    assert begun(out, 100)["rows"] == {"fp16": JUDGED}
    assert begun(out, 200)["rows"] == {}


def test_a_refusal_is_kept_and_forced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str]) -> Ran:
        commands.append(list(command))
        if "--force" not in command:
            return Ran(coreml_export.CHECK_FAILED, 1.0, [("error: too far", 1.0, 10)])
        package = tmp_path / "out" / "Unet.mlpackage"
        package.mkdir(parents=True)
        (package / "weight.bin").write_bytes(bytes(7))
        return Ran(0, 5.0 + len(commands), [("", 1.0, 100 + len(commands))])

    monkeypatch.setattr(coreml_export, "run", run)
    row = coreml_export.measure(tmp_path / "model", tmp_path / "out", ["--quantize", "palette-1"], 2)
    assert row["refused"] == "error: too far"
    assert (row["packages"], row["bytes"]) == ({"Unet": 7}, 7)
    assert [command.count("--force") for command in commands] == [0, 1, 1]
    assert (row["seconds_min"], row["seconds_max"], row["peak_rss_mb"]) == (7.0, 8.0, 103)


def test_a_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        coreml_export, "run", lambda command: Ran(1, 1.0, [("error: no such folder", 1.0, 10)])
    )
    with pytest.raises(SystemExit, match="no such folder"):
        coreml_export.export(tmp_path, tmp_path / "out", [])
