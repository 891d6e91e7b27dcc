"""Recording: what the float parent gave, for every family of models, so that it equals itself elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import model_folder
from family_folders import FAMILIES

import edgediff
from edgediff import reference, retrace
from edgediff.bundle import Bundle
from edgediff.export.assemble import Asked, assemble
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.main import export_onnx
from edgediff.export.quantize import recording
from edgediff.export.quantize.budget import work_of
from edgediff.quality import MOST

WORDS = ["a b", "c", "ab ab"]


def built(folder: Path, **choices: Any) -> tuple[Path, Model]:
    """The float bundle of a model's folder, and the model as the exporter has it."""
    out = folder.with_name(f"{folder.name}-fp32")
    export_onnx(str(folder), str(out), verify=False, **choices)
    found = assemble(Asked(str(folder), **choices), lambda line: None)
    return out, stable_diffusion.build(found.source, found.recipe)


def with_file(bundle: Path, data: bytes) -> Bundle:
    """Put a record into a bundle."""
    (bundle / reference.FILE).write_bytes(data)
    manifest = json.loads((bundle / "edgediff.json").read_text())
    manifest["files"][reference.FILE] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "edgediff.json").write_text(json.dumps(manifest))
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    return built(model_folder(tmp_path_factory.mktemp("record") / "model"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_role_is_recorded_and_equals_itself(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, choices = FAMILIES[family](tmp_path)
    parent, model = built(folder, **choices)
    monkeypatch.setattr(recording, "WORK", 30 * sum(work_of(model).values()))
    files = sorted(parent.rglob("*"))
    data = recording.record(parent, model, prompts=WORDS)
    assert sorted(parent.rglob("*")) == files
    bundle = with_file(parent, data)
    record = reference.read(bundle)
    assert {each.role for each in record.passes} == set(bundle.components)
    assert all(call.picture is not None for call in record.calls)
    found = retrace.measure(bundle)
    assert set(found["components"]) == set(bundle.components)
    assert {each["snr_db"] for each in found["components"].values()} == {MOST}
    assert found["latents_psnr_db"] == found["pictures"]["psnr_db"] == MOST


def test_a_record_is_what_a_user_gets(tiny: tuple[Path, Model]) -> None:
    parent, model = tiny
    record = reference.parse(recording.record(parent, model, prompts=WORDS), "x")
    assert [(call.prompt, call.seed) for call in record.calls] == [(w, i) for i, w in enumerate(WORDS)]
    pipe = edgediff.load(parent)
    for call in record.calls:
        assert np.array_equal(np.asarray(pipe(call.prompt, seed=call.seed).images[0]), call.picture)
        latents = pipe(call.prompt, seed=call.seed, output_type="latent").images
        assert np.array_equal(latents, call.latents)


def test_of_an_encoder_the_means_count(tiny: tuple[Path, Model]) -> None:
    """Log variances are often constant: as signal they would hide what became of the means."""
    parent, model = tiny
    record = reference.parse(recording.record(parent, model, prompts=WORDS[:1]), "x")
    (made,) = [each for each in record.passes if each.role == "encoder"]
    (sample,) = made.outputs.values()
    assert sample.shape[1] == 8
    assert sample.channels == 4
    assert sample.values.size == np.prod(sample.shape) / 2


def test_equal_parents_give_equal_bytes(tiny: tuple[Path, Model]) -> None:
    parent, model = tiny
    lines: list[str] = []
    assert recording.record(parent, model, prompts=WORDS, report=lines.append) == recording.record(
        parent, model, prompts=WORDS
    )
    steps = Bundle.open(parent).defaults.num_inference_steps
    assert lines == [f"recording what the float parent gives for 3 prompts in {steps} steps"]


def test_steps_are_spread_over_the_walk(tiny: tuple[Path, Model]) -> None:
    parent, model = tiny
    record = reference.parse(recording.record(parent, model, prompts=WORDS[:1]), "x")
    times = [float(each.inputs["timestep"].ravel()[0]) for each in record.passes if each.role == "denoiser"]
    assert len(times) == 4
    assert times == sorted(times, reverse=True)
    assert times[0] > 900
    assert times[-1] < 100


def test_a_large_model_is_asked_for_less(tiny: tuple[Path, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    parent, model = tiny
    monkeypatch.setattr(recording, "WORK", 20 * work_of(model)["denoiser"])
    record = reference.parse(recording.record(parent, model, prompts=[*WORDS, "a", "b"]), "x")
    assert len(record.calls) == 2
    assert record.settings["num_inference_steps"] < 10
    monkeypatch.setattr(recording, "BYTES", 0)
    few = reference.parse(recording.record(parent, model, prompts=WORDS), "x")
    assert Counter(each.role for each in few.passes) == dict.fromkeys(Bundle.open(parent).components, 1)
