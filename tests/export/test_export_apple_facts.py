"""Packages of the layout ``apple`` against the table of what Apple's Swift package feeds and reads.

Interfaces have the sizes of the published models; inside, networks are thin.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import apple_facts as facts
import pytest
from apple_facts import Cited, Package
from export_helpers import TINY_TEXT, TINY_UNET, model_folder, write_tokenizer
from family_folders import TINY_CONTROL, change, control_folder, part

from edgediff.export.networks import clip_text
from edgediff.mil_spec import read_spec
from edgediff.mlpackage import open_package

SOURCES = os.environ.get("EDGEDIFF_APPLE_SOURCES")  # a checkout of Apple's repository
PADDING = "<|endoftext|>"


def every(value: Any) -> Iterator[Cited]:
    """Every citation in a value."""
    if isinstance(value, Cited):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from every(each)
    elif isinstance(value, tuple):
        for each in value:
            yield from every(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from every(getattr(value, field.name))


def everything() -> list[Cited]:
    constants = {name: value for name, value in vars(facts).items() if name.isupper()}
    models = {name: facts.packages(name) for name in facts.PUBLISHED}
    return [*every(constants), *every(models), *every(facts.controlled("sd15", {"residual": (2, 1, 1, 1)}))]


def test_every_fact_has_a_citation() -> None:
    assert len(set(everything())) > 50


@pytest.mark.skipif(SOURCES is None, reason="EDGEDIFF_APPLE_SOURCES names no checkout of Apple's repository")
def test_citations_hold() -> None:
    root = Path(str(SOURCES)) / "swift" / "StableDiffusion"
    for cited in everything():
        line = (root / cited.file).read_text(encoding="utf-8").split("\n")[cited.line - 1]
        assert cited.word in line, cited


@pytest.mark.skipif(SOURCES is None, reason="EDGEDIFF_APPLE_SOURCES names no checkout of Apple's repository")
def test_the_page_calls_what_is_there() -> None:
    """Every Swift name in the page's example stands in Apple's sources, or is the system's or its own."""
    page = (Path(__file__).parents[2] / "docs" / "coreml.md").read_text(encoding="utf-8")
    code = page.split("```swift")[1].split("```")[0]
    said = set(re.findall(r"[A-Za-z]\w+", re.sub(r'"[^"]*"', "", code)))
    sources = Path(str(SOURCES)) / "swift" / "StableDiffusion"
    known = {
        word
        for file in sources.rglob("*.swift")
        for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))
    }
    own = {"wish", "pictures", "settings", "filePath", "print", "StableDiffusion", "cpuAndNeuralEngine"}
    assert said - own <= known, said - own - known


def test_every_published_model_is_tried() -> None:
    assert {getattr(each, "values", (each,))[0] for each in EVERY} == set(facts.PUBLISHED)


def text_config(channels: int, **more: Any) -> dict[str, Any]:
    return {
        **TINY_TEXT,
        "hidden_size": channels,
        "num_attention_heads": 4,
        "max_position_embeddings": facts.LENGTH,
        **more,
    }


def thin_model(model: str, folder: Path) -> Path:
    """A model with the published one's interfaces. Its first text encoder is written by the helper."""
    sizes = facts.PUBLISHED[model]
    unet: dict[str, Any] = {**TINY_UNET, "sample_size": sizes.latents, "cross_attention_dim": sizes.text}
    if sizes.ids:
        unet |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": sizes.pooled + 4 * sizes.ids,
        }
    vae = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [4, 4, 8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "norm_num_groups": 4,
        "layers_per_block": 1,
    }
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = {"_class_name": "PNDMScheduler", "num_train_timesteps": 1000, "skip_prk_steps": True, **betas}
    texts = dict(sizes.texts)
    model_folder(folder, text_config(texts.get("TextEncoder", 16)), unet, vae, scheduler)
    if "TextEncoder2" in texts:
        config = text_config(texts["TextEncoder2"], projection_dim=sizes.pooled)
        graph = clip_text.record(clip_text.configure(config, "config.json", projected=True))
        part(folder / "text_encoder_2", config, [graph], "model")
        write_tokenizer(folder / "tokenizer_2")
        names: dict[str, Any] = {
            "_class_name": "StableDiffusionXLPipeline",
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        }
        if "TextEncoder" not in texts:
            names |= {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}
            names |= {"text_encoder": [None, None], "tokenizer": [None, None]}
        change(folder / "model_index.json", **names)
    for tokenizer in folder.glob("tokenizer*"):
        change(tokenizer / "tokenizer_config.json", model_max_length=facts.LENGTH, pad_token=PADDING)
    return folder


def exported(model: Path, out: Path, **options: Any) -> Path:
    pytest.importorskip("coremltools")
    from edgediff.export.coreml.main import export_coreml

    quick = {"receipt": False, "verify": False}
    export_coreml(str(model), str(out), layout="apple", **quick, **options)
    return out


def compare(path: Path, wanted: Package) -> None:
    """A saved package takes what is fed and gives what is read."""
    spec = read_spec(open_package(path).model)
    for found, listed, side in ((spec.inputs, wanted.inputs, "in"), (spec.outputs, wanted.outputs, "out")):
        named = {feature.name: feature for feature in found}
        if wanted.only or side == "in":
            assert len(named) == len(listed), (path, side, sorted(named))
        for tensor in listed:
            feature = named[tensor.name] if tensor.name is not None else next(iter(named.values()))
            assert feature.dtype == facts.FED, (path, feature)
            assert tensor.shape in (facts.ANY, feature.shape), (path, feature, tensor)
            assert not feature.shapes, (path, feature)
            assert not feature.ranges, (path, feature)
            assert not feature.optional, (path, feature)


slow = pytest.mark.slow
EVERY = ["sd15", "sdxl", *(pytest.param(name, marks=slow) for name in ("sd21", "refiner"))]


@pytest.mark.parametrize("model", EVERY)
def test_packages_are_what_swift_expects(model: str, tmp_path: Path) -> None:
    out = exported(thin_model(model, tmp_path / "model"), tmp_path / "out")
    wanted = facts.packages(model)
    for name, package in wanted.items():
        compare(out / f"{name}.mlpackage", package)
    assert {path.stem for path in out.glob("*.mlpackage")} == set(wanted)
    assert {f"{name}.mlmodelc" for name in wanted} <= {cited.word for cited in facts.NAMES}
    assert all((out / name).is_file() for name in facts.FILES)


@pytest.mark.parametrize("model", ["sd15", pytest.param("sdxl", marks=slow)])
def test_chunks_feed_each_other(model: str, tmp_path: Path) -> None:
    """Swift feeds the second the call's inputs and what the first gave, and asks the first for its sizes."""
    out = exported(thin_model(model, tmp_path / "model"), tmp_path / "out", chunk=True)
    whole = facts.packages(model)["Unet"]
    fed = {tensor.name: tensor.shape for tensor in whole.inputs}
    first, second = (read_spec(open_package(out / f"UnetChunk{i}.mlpackage").model) for i in (1, 2))
    assert "sample" in {feature.name for feature in first.inputs}
    assert not (out / "Unet.mlpackage").exists()
    if model == "sdxl":
        assert "time_ids" in {feature.name for feature in first.inputs}
    for spec in (first, second):
        for feature in spec.inputs:
            assert (feature.dtype, feature.shape) == (facts.FED, fed[feature.name]), feature
        fed |= {feature.name: feature.shape for feature in spec.outputs}
    assert [feature.shape for feature in second.outputs] == [whole.outputs[0].shape]
    assert not {feature.name for feature in first.outputs} & {tensor.name for tensor in whole.inputs}


def test_a_controlnet_gives_what_its_unet_takes(tmp_path: Path) -> None:
    model = thin_model("sd15", tmp_path / "model")
    config = {
        **TINY_CONTROL,
        "cross_attention_dim": facts.PUBLISHED["sd15"].text,
        "conditioning_embedding_out_channels": [4, 4, 8, 8],
    }
    out = exported(model, tmp_path / "out", controlnets=[str(control_folder(tmp_path / "edges", config))])
    (control,) = (out / facts.CONTROLNETS.word).glob("*.mlpackage")
    given = {feature.name: feature.shape for feature in read_spec(open_package(control).model).outputs}
    assert len(given) == 5  # four skip connections of the thin network, and its middle
    wanted = facts.controlled("sd15", given)
    compare(control, wanted["controlnet"])
    compare(out / "ControlledUnet.mlpackage", wanted["ControlledUnet"])
