"""Single files in the original layout: the same model as from a folder, and every other file refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import write_tokenizer
from original_layout import KINDS, kind_folder, original_text, original_unet, original_vae, single_file
from original_layout import components as components_of
from safetensors.numpy import load_file, save_file

from edgediff.errors import EdgediffError, InputError, SourceError, UnsupportedError
from edgediff.export.emit.onnx import emit
from edgediff.export.emit.weights import write_weights
from edgediff.export.families.parts import Part
from edgediff.export.families.stable_diffusion import build
from edgediff.export.main import export_onnx
from edgediff.export.networks import autoencoder_kl, clip_text, unet2d_condition
from edgediff.export.single_file import open_part, open_single_file
from edgediff.export.sources import Component, Source, open_source

pytestmark = pytest.mark.slow

ASKED = {"sd2-base": "epsilon", "sd2-v": "v_prediction"}
CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Every kind as a folder and as a file."""
    root = tmp_path_factory.mktemp("models")
    made = {}
    for kind in KINDS:
        folder = kind_folder(root / kind, kind)
        made[kind] = folder, single_file(root / f"{kind}.safetensors", folder)
    return made


def shape(component: Component) -> Any:
    """What the exporter makes of a configuration."""
    where = component.name
    if component.name == "unet":
        return unet2d_condition.configure(component.config, where)
    if component.name == "vae":
        return autoencoder_kl.configure({**component.config, "sample_size": 1}, where)
    return clip_text.configure(component.config, where, component.name == "text_encoder_2")


def parts(source: Source) -> dict[str, Component]:
    return {n: source.component(n, (c,)) for n, c in CLASSES.items() if source.class_of(n) is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_same_as_the_folder(kind: str, models: dict[str, tuple[Path, Path]]) -> None:
    folder, file = models[kind]
    whole, single = open_source(str(folder)), open_source(str(file), prediction_type=ASKED.get(kind))
    assert single.pipeline == whole.pipeline
    assert single.scheduler() == whole.scheduler()
    for flag in ("force_zeros_for_empty_prompt", "requires_aesthetics_score"):
        assert single.index.get(flag) == whole.index.get(flag)
    assert single.license is None and single.label == f"{kind}.safetensors"
    wanted, found = parts(whole), parts(single)
    assert list(found) == list(wanted)
    for name in wanted:
        assert shape(found[name]) == shape(wanted[name])
        assert (
            found[name].config.get("sample_size") == wanted[name].config.get("sample_size") or name == "vae"
        )
        tensors, others = found[name].tensors, wanted[name].tensors
        ours = set(tensors.entries) - {"text_model.embeddings.position_ids"}
        assert ours == set(others.entries)
        for tensor in ours:
            np.testing.assert_array_equal(tensors.whole(tensor), others.whole(tensor))
            assert tensors.entries[tensor].shape == others.entries[tensor].shape


def written(part: Part) -> tuple[bytes, bytes]:
    """A part's graph and its weights, as the bundle has them."""
    emitted, sink = emit(part.graph, "fp32"), io.BytesIO()
    write_weights(emitted.model, emitted.stored, part.tensors, part.names, sink, "model.onnx_data")
    return emitted.model.SerializeToString(deterministic=True), sink.getvalue()


@pytest.mark.parametrize("kind", ["sd1", "sd2-v", "sdxl", "refiner"])
def test_same_bundle(kind: str, models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """Graphs, weights and the manifest's facts are equal, to the byte."""
    folder, file = models[kind]
    write_tokenizer(tmp_path)
    one = build(open_source(str(folder)))
    two = build(open_source(str(file), prediction_type=ASKED.get(kind), tokenizer=str(tmp_path)))
    assert [part.role for part in one.parts] == [part.role for part in two.parts]
    for first, second in zip(one.parts, two.parts, strict=True):
        assert written(first) == written(second)
        assert (first.overflows, first.trial) == (second.overflows, second.trial)
    assert one.facts == two.facts
    assert one.defaults == two.defaults
    assert one.files["tokenizer_2/vocab.json" if kind == "refiner" else "tokenizer/vocab.json"]


def test_uneven_depths(tmp_path: Path) -> None:
    """A U-Net cut down by distillation (Gupta et al. 2024): depths per layer, a middle without attention."""
    from original_layout import _XL_LEVELS, _parameters, _random

    config = {
        **_XL_LEVELS,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2]],
        "reverse_transformer_layers_per_block": [[3, 1], 1],
    }
    arrays = _random(_parameters("unet", config), 0)
    for name, kept in (("original", original_unet(arrays)), ("diffusers", arrays)):
        save_file(kept, tmp_path / f"{name}.safetensors")
        part = open_part(tmp_path / f"{name}.safetensors", "unet")
        expected = unet2d_condition.configure({**config, "sample_size": None}, "")
        assert unet2d_condition.configure(part.config, "") == expected
        assert set(part.tensors.entries) == set(arrays)


def test_guidance_embedding(tmp_path: Path) -> None:
    """A distilled U-Net that takes its guidance as an input (Luo et al. 2023)."""
    folder = kind_folder(tmp_path / "lcm", "sd1")
    name = "model.diffusion_model.time_embed.cond_proj.weight"
    file = single_file(tmp_path / "lcm.safetensors", folder, **{name: np.zeros((32, 16), np.float32)})
    source = open_single_file(file)
    assert source.pipeline == "LatentConsistencyModelPipeline"
    assert source.scheduler()["_class_name"] == "LCMScheduler"
    unet = source.component("unet", ("UNet2DConditionModel",))
    assert unet2d_condition.configure(unet.config, "").guidance_channels == 16
    assert "time_embedding.cond_proj.weight" in unet.tensors.entries


def test_prediction(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """What shapes cannot tell comes from marks, metadata or the user, and is never guessed."""
    folder, file = models["sd2-v"]
    with pytest.raises(InputError, match="--prediction-type epsilon or --prediction-type v_prediction"):
        open_single_file(file)
    with pytest.raises(InputError, match="prediction type 'eps': known are epsilon"):
        open_single_file(file, prediction_type="eps")
    marks: list[tuple[dict[str, str] | None, dict[str, Any], str, str]] = [
        ({"modelspec.prediction_type": "v"}, {}, "v_prediction", "metadata"),
        ({"modelspec.prediction_type": "epsilon"}, {}, "epsilon", "metadata"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, {}, "v_prediction", "metadata"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, {}, "epsilon", "metadata"),
        (None, {"global_step": np.int64(875000)}, "epsilon", "global_step 875000"),
        (None, {"v_pred": np.zeros(1, np.float32)}, "v_prediction", "v_pred"),
    ]
    for metadata, extra, wanted, by in marks:
        source = open_single_file(single_file(tmp_path / "x.safetensors", folder, metadata, **extra))
        assert source.scheduler()["prediction_type"] == wanted
        assert by in source.notes[0] and wanted in source.notes[0]
    odd = single_file(tmp_path / "x.safetensors", folder, {"modelspec.prediction_type": "rectified flow"})
    with pytest.raises(SourceError, match=r"modelspec\.prediction_type is 'rectified flow'"):
        open_single_file(odd)
    zero = np.zeros(1, np.float32)
    snr = single_file(tmp_path / "x.safetensors", models["sdxl"][0], v_pred=zero, ztsnr=zero)
    settings = open_single_file(snr).scheduler()
    assert settings["prediction_type"] == "v_prediction" and settings["rescale_betas_zero_snr"]
    assert settings["timestep_spacing"] == "trailing"


def test_licence(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    said = {"modelspec.license": "CreativeML-OpenRAIL-M"}
    assert open_single_file(single_file(tmp_path / "x.safetensors", models["sd1"][0], said)).license == (
        "CreativeML-OpenRAIL-M"
    )


def test_missing_parts_are_named(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    file = tmp_path / "unet.safetensors"
    arrays = load_file(models["sdxl"][1])
    save_file({n: a for n, a in arrays.items() if n.startswith("model.diffusion_model.")}, file)
    source = open_single_file(file)
    message = "holds no vae.*vae \\(--vae\\).*text_encoder \\(--text-encoder\\).*--text-encoder-2"
    with pytest.raises(SourceError, match=message):
        source.component("vae", ("AutoencoderKL",))
    with pytest.raises(SourceError, match="holds no text_encoder"):
        export_onnx(str(file), str(tmp_path / "out"), verify=False)
    assert not (tmp_path / "out").exists()


def test_parts_alone(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """--vae and its like: folders, and files of either layout."""
    folder, file = models["sdxl"]
    held = components_of(folder)
    beside = open_source(str(folder))
    renamed = {"unet": original_unet, "vae": original_vae, "text_encoder_2": original_text}
    for name, rename in renamed.items():
        save_file(
            {n: np.ascontiguousarray(a) for n, a in rename(held[name]).items()}, tmp_path / "old.safetensors"
        )
        save_file(held[name], tmp_path / "new.safetensors")
        whole = beside.component(name, (CLASSES[name],))
        for where in (tmp_path / "old.safetensors", tmp_path / "new.safetensors", folder / name, folder):
            part = open_part(where, name, beside)
            # The activation of an encoder that is not of a published width is told from the layout alone.
            if not (where.name == "new.safetensors" and name == "text_encoder_2"):
                assert shape(part) == shape(whole)
            assert part.class_name == CLASSES[name]
            for tensor in held[name]:
                np.testing.assert_array_equal(part.tensors.whole(tensor), held[name][tensor])
        if name == "vae":
            lone = open_part(tmp_path / "old.safetensors", name, open_source(str(models["sd1"][0])))
            assert lone.config["scaling_factor"] == 0.18215
            assert open_part(tmp_path / "old.safetensors", name, beside).config["scaling_factor"] == 0.13025
            training = {**held[name], "loss.logvar": np.zeros(1, np.float32)}
            save_file(training, tmp_path / "loss.safetensors")
            lone = open_part(tmp_path / "loss.safetensors", name, beside)
            assert set(lone.tensors.entries) == set(held[name])
            with pytest.raises(SourceError, match="does not say the scale of its latents"):
                open_part(tmp_path / "loss.safetensors", name)
    with pytest.raises(InputError, match="no such file or folder; it was named as vae"):
        open_part(tmp_path / "absent", "vae")
    with pytest.raises(SourceError, match="holds no controlnet"):
        open_part(tmp_path / "old.safetensors", "controlnet")
    with pytest.raises(SourceError, match=r"holds no config\.json"):
        open_part(tmp_path, "vae")
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x04")
    with pytest.raises(SourceError, match="pickled"):
        open_part(tmp_path / "x.ckpt", "vae")
    assert file.is_file()


OTHERS = {
    "FLUX": "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
    "Stable Diffusion 3": "model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight",
    "a video model": "model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight",
    "unCLIP": "noise_augmentor.betas",
    "Playground": "edm_mean",
    "CosXL": "edm_vpred.sigma_max",
    "upscaler": "low_res_model.betas",
    "a LoRA adapter": "lora_unet_mid_block.lora_up.weight",
    "a ControlNet": "control_model.zero_convs.0.0.weight",
    "textual inversion": "emb_params",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_named(name: str, tmp_path: Path) -> None:
    save_file({OTHERS[name]: np.zeros((2, 2), np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(UnsupportedError, match=name):
        open_single_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("kind", "channels", "message"),
    [
        (
            "sd1",
            5,
            "Stable Diffusion 1, but its U-Net reads 5 channels, that of a model conditioned on depth",
        ),
        ("sd2-v", 8, "Stable Diffusion 2, but its U-Net reads 8 channels"),
        ("refiner", 9, "SDXL refiner, but"),
        ("sd1", 7, "x4 upscaler"),
    ],
)
def test_other_inputs_are_refused(
    kind: str, channels: int, message: str, models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    arrays = load_file(models[kind][1])
    arrays[name] = np.zeros((len(arrays[name]), channels, 3, 3), np.float32)
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(UnsupportedError, match=message):
        open_single_file(tmp_path / "x.safetensors", prediction_type="epsilon")


UNET = "model.diffusion_model."
DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "no output": ({f"{UNET}out.2.weight": None}, "out.2.weight is missing"),
    "rank": ({f"{UNET}out.2.weight": np.zeros((4, 32))}, r"out.2.weight is \(4, 32\), expected 4 extents"),
    "no context": (
        {f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": None},
        "attn2.to_k.weight is missing",
    ),
    "halves": ({f"{UNET}output_blocks.3.0.in_layers.2.weight": None}, "two halves of its U-Net"),
    "no time": ({f"{UNET}time_embed.0.weight": None}, "misses 1 tensors: time_embedding.linear_1.weight"),
    "surplus": ({f"{UNET}surplus.weight": np.zeros(3)}, "does not know 1 tensors: surplus.weight"),
    "two widths": (
        {f"{UNET}input_blocks.4.0.in_layers.2.weight": np.zeros((0, 64, 3, 3))},
        "expected 4 extents",
    ),
    "encoder gone": ({"first_stage_model.encoder.down.0.block.0.conv1.weight": None}, "no encoder"),
    "latents": ({"first_stage_model.decoder.conv_in.weight": np.zeros((64, 16, 3, 3))}, "16 channels"),
    "text width": (
        {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": np.zeros((40, 63))},
        "63 channels, no multiple of 64",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    changes, message = DAMAGE[name]
    arrays = load_file(models["sd1"][1])
    for tensor, value in changes.items():
        arrays.pop(tensor, None)
        if value is not None:
            arrays[tensor] = value.astype(np.float32)
    save_file(arrays, tmp_path / "x.safetensors")
    write_tokenizer(tmp_path)
    with pytest.raises(EdgediffError, match=message) as caught:
        build(open_single_file(tmp_path / "x.safetensors", tokenizer=tmp_path))
    assert isinstance(caught.value, SourceError | UnsupportedError)


def test_no_model(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(SourceError, match="holds no U-Net in the layout of LDM, SGM or diffusers, but a"):
        open_single_file(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(SourceError, match="not a safetensors file"):
        open_source(str(tmp_path / "x.safetensors"))
    folder = kind_folder(tmp_path / "sd1", "sd1")
    with pytest.raises(SourceError, match=r"holds an autoencoder and no U-Net\. --vae"):
        open_single_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(SourceError, match="holds a text encoder and no U-Net"):
        open_single_file(folder / "text_encoder" / "model.safetensors")
