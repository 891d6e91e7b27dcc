"""A folder that Optimum exported opens without a manifest; what it lacks is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import edgediff
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, UnsupportedError
from tests import tiny

CONFIGS: dict[str, dict[str, Any]] = {
    "model_index.json": {"_class_name": "StableDiffusionPipeline", "unet": ["optimum", "ORTModelUnet"]},
    "text_encoder/config.json": {"max_position_embeddings": tiny.LENGTH, "hidden_size": 8},
    "unet/config.json": {"in_channels": 4, "sample_size": 4, "time_cond_proj_dim": None},
    "vae_decoder/config.json": {"block_out_channels": [8, 8, 8, 8], "scaling_factor": 0.18215},
    "scheduler/scheduler_config.json": {**tiny.SCHEDULER, "lambda_min_clipped": float("-inf")},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What Optimum leaves behind, graphs without content."""
    for name, value in CONFIGS.items():
        write(tmp_path, name, value)
    for name in ("text_encoder", "unet", "vae_decoder"):
        (tmp_path / name / "model.onnx").write_bytes(b"no graph")
    tiny.write_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def write(folder: Path, name: str, value: Any) -> None:
    """Write one configuration."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def test_it_opens(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert set(bundle.components) == {"text_encoder", "denoiser", "decoder"}
    assert bundle.latents.downscale == {"height": 8, "width": 8}
    assert bundle.latents.scaling_factor == 0.18215
    assert bundle.defaults.size == {"height": 32, "width": 32}
    assert bundle.text is not None
    assert bundle.text.length == tiny.LENGTH
    assert bundle.format_version is None
    assert "lambda_min_clipped" not in bundle.scheduler  # an infinite bound is no bound


def test_it_draws(folder: Path) -> None:
    pytest.importorskip("onnx")
    from tests import graphs

    for role, data in graphs.text2image().items():
        (folder / tiny.COMPONENTS[role]["graphs"][0]["file"]).write_bytes(data)
    with edgediff.load(folder) as pipe:
        assert pipe("a red circle", seed=0, num_inference_steps=2).images[0].size == (32, 32)


def test_few_step_models_take_guidance_as_a_number(folder: Path) -> None:
    write(folder, "unet/config.json", {**CONFIGS["unet/config.json"], "time_cond_proj_dim": 256})
    write(folder, "scheduler/scheduler_config.json", {**tiny.SCHEDULER, "_class_name": "LCMScheduler"})
    bundle = Bundle.open(folder)
    assert bundle.guidance_embedding == 256
    assert bundle.defaults.num_inference_steps == 4


def test_an_encoder_is_optional(folder: Path) -> None:
    (folder / "vae_encoder").mkdir()
    (folder / "vae_encoder" / "model.onnx").write_bytes(b"no graph")
    assert "encoder" in Bundle.open(folder).components


XL: dict[str, dict[str, Any]] = {
    "model_index.json": {"_class_name": "ORTStableDiffusionXLPipeline"},
    "text_encoder/config.json": {"max_position_embeddings": tiny.LENGTH, "num_hidden_layers": 12},
    "text_encoder_2/config.json": {"max_position_embeddings": tiny.LENGTH, "num_hidden_layers": 32},
}


@pytest.fixture
def larger(folder: Path) -> Path:
    """A folder of the SDXL kind."""
    for name, value in XL.items():
        write(folder, name, value)
    (folder / "text_encoder_2" / "model.onnx").write_bytes(b"no graph")
    tiny.write_tokenizer(folder / "tokenizer_2")
    return folder


def test_two_text_encoders(larger: Path) -> None:
    bundle = Bundle.open(larger)
    assert bundle.family == "stable-diffusion-xl"
    assert bundle.text is not None
    assert [(e.role, e.hidden, e.pooled) for e in bundle.text.encoders] == [
        ("text_encoder", "hidden_states.11", None),
        ("text_encoder_2", "hidden_states.31", "text_embeds"),
    ]
    assert bundle.text.zero_negative
    assert bundle.size_ids[-2:] == ("target_height", "target_width")
    assert bundle.latents.scaling_factor == 0.18215  # the configuration goes before the family's own


def test_a_refiner_reads_a_score(larger: Path) -> None:
    facts = {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    write(larger, "model_index.json", {"_class_name": "StableDiffusionXLImg2ImgPipeline", **facts})
    (larger / "text_encoder" / "model.onnx").unlink()
    bundle = Bundle.open(larger)
    assert bundle.size_ids[-1] == "aesthetic_score"
    assert bundle.tasks == ("image2image", "inpaint")
    assert bundle.text is not None
    assert [e.tokenizer for e in bundle.text.encoders] == ["tokenizer_2/vocab.json"]
    assert not bundle.text.zero_negative


@pytest.mark.parametrize("value", [None, 0, "12", True])
def test_a_wrong_number_of_layers(larger: Path, value: Any) -> None:
    config = {**XL["text_encoder/config.json"], "num_hidden_layers": value}
    write(larger, "text_encoder/config.json", config)
    with pytest.raises(BundleError, match="num_hidden_layers"):
        Bundle.open(larger)


def test_the_schedule_is_that_of_the_pipeline(folder: Path) -> None:
    write(folder, "scheduler/scheduler_config.json", {**tiny.SCHEDULER, "steps_offset": 0})
    assert Bundle.open(folder).scheduler["steps_offset"] == 1


def test_other_pipelines_are_refused(folder: Path) -> None:
    write(folder, "model_index.json", {"_class_name": "FluxPipeline"})
    with pytest.raises(UnsupportedError, match="FluxPipeline is not opened without a manifest"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("unet/model.onnx", "no graph for denoiser"),
        ("unet/config.json", "unet/config.json"),
        ("scheduler/scheduler_config.json", "scheduler_config.json"),
        ("text_encoder/config.json", "text_encoder/config.json"),
    ],
)
def test_missing_files_are_named(folder: Path, missing: str, says: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(BundleError, match=says):
        Bundle.open(folder)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("content", ["[1]", '"text"', "null", "{}", "{", "7", ""])
def test_damaged_configurations(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    if name.startswith("scheduler") and content == "{}":
        bundle = Bundle.open(folder)  # only the sampler knows what it needs
        with pytest.raises(BundleError, match="_class_name"):
            edgediff.load(bundle, runtime="null")("a")
        return
    with pytest.raises(BundleError, match=name.partition("/")[0]):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("unet/config.json", "sample_size", [4, 4]),
        ("unet/config.json", "in_channels", "4"),
        ("unet/config.json", "time_cond_proj_dim", "yes"),
        ("vae_decoder/config.json", "block_out_channels", 4),
        ("vae_decoder/config.json", "block_out_channels", []),
        ("vae_decoder/config.json", "block_out_channels", ["a"]),
        ("vae_decoder/config.json", "scaling_factor", "0.18"),
        ("text_encoder/config.json", "max_position_embeddings", True),
    ],
)
def test_wrong_values_are_named(folder: Path, name: str, field: str, value: Any) -> None:
    write(folder, name, {**CONFIGS[name], field: value})
    with pytest.raises(BundleError, match=field):
        Bundle.open(folder)
