"""Layouts: what Apple's Swift package is given, what it is refused, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_folders import SCALED, manifest, ports, specs
from export_helpers import TINY_UNET, model_folder, write_json
from family_folders import FAMILIES, change, control_folder, tiny_autoencoder, xl_folder

from edgediff import runtime
from edgediff.bundle import GraphSpec
from edgediff.denoise import guidance_embedding
from edgediff.errors import InputError, UnsupportedError
from edgediff.export.assemble import Asked, assemble
from edgediff.export.coreml import apple, layouts
from edgediff.export.coreml.main import export_coreml
from edgediff.export.coreml.options import Wanted
from edgediff.export.families.parts import Model
from edgediff.export.main import build, export_onnx

pytestmark = pytest.mark.slow

APPLE = Wanted(layout="apple")


def _model(folder: Path, **choices: Any) -> Model:
    return build(assemble(Asked(str(folder), **choices)))


def _scaled(folder: Path, **settings: Any) -> Path:
    """A folder with the noise schedule of Apple's package."""
    write_json(folder / "scheduler" / "scheduler_config.json", {**SCALED, **settings})
    change(folder / "model_index.json", scheduler=["diffusers", SCALED["_class_name"]])
    return folder


def test_what_the_swift_package_reads(tmp_path: Path) -> None:
    told = export_coreml(
        str(_scaled(model_folder(tmp_path / "m"))), str(tmp_path / "out"), layout="apple", receipt=False
    )
    found = specs(tmp_path / "out")
    assert set(found) == {"TextEncoder", "Unet", "VAEDecoder", "VAEEncoder"}
    assert ports(found["TextEncoder"]) == {"input_ids": ("float32", (1, 12))}
    assert [feature.name for feature in found["TextEncoder"].outputs] == [
        "last_hidden_state",
        "pooled_outputs",
    ]
    assert ports(found["Unet"]) == {
        "sample": ("float32", (2, 4, 8, 8)),
        "timestep": ("float32", (2,)),
        "encoder_hidden_states": ("float32", (2, 16, 1, 12)),
    }
    assert [(f.name, f.dtype) for f in found["Unet"].outputs] == [("noise_pred", "float32")]
    assert ports(found["VAEDecoder"]) == {"z": ("float32", (1, 4, 8, 8))}
    assert [f.name for f in found["VAEDecoder"].outputs] == ["image"]
    assert ports(found["VAEEncoder"]) == {"x": ("float32", (1, 3, 16, 16))}
    assert [f.name for f in found["VAEEncoder"].outputs] == ["latent"]
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_file()} == {
        "vocab.json", "merges.txt", "edgediff-export.json"
    }  # fmt: skip
    summary = manifest(tmp_path / "out", "edgediff-export.json")
    assert summary["format"] == "edgediff-apple/1" and summary["asked"]["layout"] == "apple"
    assert set(summary["files"]) == {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and path.name != "edgediff-export.json"
    }
    assert any("coremlcompiler" in note for note in told["notes"])
    assert any(".pndmScheduler is this model's own" in note for note in told["notes"])


@pytest.mark.parametrize(("refiner", "ids"), [(False, 6), (True, 5)])
def test_the_larger_family(refiner: bool, ids: int, tmp_path: Path) -> None:
    source = _scaled(xl_folder(tmp_path / "m", refiner=refiner))
    told = export_coreml(str(source), str(tmp_path / "out"), layout="apple", receipt=False)
    found = specs(tmp_path / "out")
    encoders = {"TextEncoder2"} if refiner else {"TextEncoder", "TextEncoder2"}
    assert set(found) == {*encoders, "Unet", "VAEDecoder", "VAEEncoder"}
    for name in encoders:
        assert [f.name for f in found[name].outputs] == ["hidden_embeds", "pooled_outputs"]
    inputs = ports(found["Unet"])
    assert inputs["time_ids"] == ("float32", (2, ids)) and inputs["text_embeds"] == ("float32", (2, 12))
    assert any("UnetRefiner" in note for note in told["notes"]) == refiner


def test_residuals_are_numbered_alike(tmp_path: Path) -> None:
    source, options = FAMILIES["controls"](tmp_path)
    export_coreml(str(_scaled(source)), str(tmp_path / "out"), layout="apple", receipt=False, **options)
    found = specs(tmp_path / "out")
    assert {"ControlledUnet", "controlnet/one", "controlnet/two"} < set(found)
    control = found["controlnet/one"]
    assert set(ports(control)) == {"sample", "timestep", "encoder_hidden_states", "controlnet_cond"}
    assert ports(control)["controlnet_cond"] == ("float32", (2, 3, 16, 16))
    given = {feature.name for feature in control.outputs}
    read = {n: s for n, s in ports(found["ControlledUnet"]).items() if n.startswith("additional_residual_")}
    assert given == set(read) == {f"additional_residual_{i}" for i in range(len(given))}
    main = control.main.block
    shapes = {n.name: n.type.shape for operation in main.operations for n in operation.outputs}
    assert {name: shapes[name] for name in given} == {name: shape for name, (_, shape) in read.items()}


def test_guidance_is_baked(tmp_path: Path) -> None:
    """The package gives what the ONNX graph gives for the embedding of that scale, at the same rows."""
    source = _scaled(model_folder(tmp_path / "m", unet={**TINY_UNET, "time_cond_proj_dim": 8}))
    told = export_coreml(
        str(source), str(tmp_path / "out"), layout="apple", receipt=False, dtype="fp32", guidance_scale=4.5
    )
    assert any("guidance 4.5 is baked" in note for note in told["notes"])
    export_onnx(str(source), str(tmp_path / "onnx"), verify=False)
    rng = np.random.default_rng(1)
    sample, text = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 8, 8), (2, 12, 16)))
    from export_helpers import run

    want = run(
        tmp_path / "onnx" / "unet" / "model.onnx",
        {
            "sample": sample,
            "timestep": np.asarray([500.0], np.float32),
            "encoder_hidden_states": text,
            "timestep_cond": np.repeat(guidance_embedding(4.5, 8), 2, 0),
        },
    )["out_sample"]
    package = tmp_path / "out" / "Unet.mlpackage"
    loaded = runtime.find("mil").load(GraphSpec("coreml", "", "", "fp32"), package, "cpu", {}, {})
    states = np.ascontiguousarray(text.transpose(0, 2, 1)[:, :, None])
    times = np.full(2, 500.0, np.float32)
    have = loaded({"sample": sample, "timestep": times, "encoder_hidden_states": states})["noise_pred"]
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-4 * float(np.abs(want).max()))


def test_one_row_without_guidance(tmp_path: Path) -> None:
    source = _scaled(model_folder(tmp_path / "m"))
    export_coreml(
        str(source), str(tmp_path / "out"), layout="apple", receipt=False, verify=False, batch=1,
        recipe="turbo",
    )  # fmt: skip
    assert ports(specs(tmp_path / "out")["Unet"])["timestep"] == ("float32", (1,))


def test_chunks_have_the_names_that_are_looked_for(tmp_path: Path) -> None:
    source = _scaled(model_folder(tmp_path / "m"))
    export_coreml(str(source), str(tmp_path / "out"), layout="apple", chunk=True, receipt=False)
    found = specs(tmp_path / "out")
    assert "Unet" not in found
    between = {f.name for f in found["UnetChunk1"].outputs}
    read = set(ports(found["UnetChunk2"]))
    assert between < read and read - between <= {"sample", "timestep", "encoder_hidden_states"}
    assert [f.name for f in found["UnetChunk2"].outputs] == ["noise_pred"]


@pytest.mark.parametrize("family", ["inpaint", "instruct"])
def test_models_with_other_latents_are_refused(family: str, tmp_path: Path) -> None:
    source, options = FAMILIES[family](tmp_path)
    with pytest.raises(UnsupportedError, match="draws noise in the shape of 'sample'"):
        layouts.planned(_model(_scaled(source), **options), APPLE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction_type": "v_prediction"}, "predicts v_prediction"),
        ({"beta_schedule": "linear"}, "betas are linear"),
        ({"beta_end": 0.02}, "from 0.00085 to 0.02"),
        ({"rescale_betas_zero_snr": True}, "zero SNR"),
        ({"num_train_timesteps": 500}, "500 timesteps"),
        ({"trained_betas": [0.1] * 1000}, "betas are"),
    ],
)
def test_other_noise_schedules_pass_by_force_alone(
    settings: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    model = _model(_scaled(model_folder(tmp_path / "m"), **settings))
    with pytest.raises(UnsupportedError, match=f"{message}.*--force"):
        layouts.planned(model, APPLE)
    forced = replace(APPLE, force=True)
    assert len(layouts.planned(model, forced)) == 4
    assert any(message in note for note in apple.notes(model, forced))


def test_other_refusals(tmp_path: Path) -> None:
    xl = _model(_scaled(xl_folder(tmp_path / "xl")))
    with pytest.raises(UnsupportedError, match="always feeds 2 rows"):
        layouts.planned(xl, replace(APPLE, batch=1))
    with pytest.raises(UnsupportedError, match="not 3"):
        layouts.planned(xl, replace(APPLE, batch=3))
    with pytest.raises(UnsupportedError, match="reads none"):
        layouts.planned(xl, replace(APPLE, guidance_scale=3.0))
    lone = replace(xl, parts=tuple(part for part in xl.parts if part.role != "text_encoder_2"))
    with pytest.raises(UnsupportedError, match="TextEncoder2"):
        layouts.planned(lone, APPLE)
    shifted = replace(xl, facts={**xl.facts, "latents": {**xl.facts["latents"], "shift_factor": 0.1}})
    with pytest.raises(UnsupportedError, match=r"shifted by 0\.1"):
        layouts.planned(shifted, APPLE)
    bare = replace(xl, files={k: v for k, v in xl.files.items() if not k.endswith("merges.txt")})
    with pytest.raises(UnsupportedError, match="merges"):
        layouts.planned(bare, APPLE)
    vocabulary = json.dumps({"a": 0, "<|endoftext|>": 1}).encode()
    strange = replace(xl, files={**xl.files, "tokenizer/vocab.json": vocabulary})
    with pytest.raises(UnsupportedError, match="startoftext"):
        layouts.planned(strange, APPLE)


def test_controlnets_of_the_larger_family_are_refused(tmp_path: Path) -> None:
    xl = _model(_scaled(xl_folder(tmp_path / "xl")))
    steered = replace(xl, facts={**xl.facts, "controls": [{"role": "control", "channels": 3}]})
    with pytest.raises(UnsupportedError, match="has no ControlNets"):
        layouts.planned(steered, APPLE)


def test_what_an_app_must_know(tmp_path: Path) -> None:
    source = _scaled(model_folder(tmp_path / "m"), _class_name="EulerDiscreteScheduler")
    model = _model(source, parts={"vae": str(tiny_autoencoder(tmp_path / "t"))}, recipe="lightning-4")
    notes = " | ".join(apple.notes(model, APPLE))
    assert "EulerDiscreteScheduler is not in the package" in notes
    assert "set decoderScaleFactor and encoderScaleFactor to 1;" in notes
    assert "drawn in few steps (lightning-4)" in notes and "--batch 1" in notes
    assert "VAEEncoder is left out" in notes


def test_an_encoder_of_other_latents_is_left_out(tmp_path: Path) -> None:
    source = _scaled(model_folder(tmp_path / "m"))
    export_coreml(
        str(source), str(tmp_path / "out"), layout="apple", receipt=False, verify=False,
        parts={"vae": str(tiny_autoencoder(tmp_path / "t"))},
    )  # fmt: skip
    assert "VAEEncoder" not in specs(tmp_path / "out")


def test_controlnets_are_named_after_what_they_were_read_from(tmp_path: Path) -> None:
    model = _model(
        model_folder(tmp_path / "m"), controlnets=[str(control_folder(tmp_path / n)) for n in ("a", "b")]
    )
    own = Wanted()

    def names(*given: str) -> list[str]:
        return [p.name for p in layouts.planned(model, own, given) if p.part.role in ("control", "control_2")]

    assert names("lllyasviel/sd-controlnet-canny@main", "x/depth v1.safetensors") == [
        "controlnet/sd-controlnet-canny", "controlnet/depth_v1"
    ]  # fmt: skip
    assert names("one/canny", "two/canny") == ["controlnet/canny", "controlnet/canny2"]
    assert names("two/canny") == ["controlnet/ControlNet", "controlnet/canny"]
    assert names("../..", "x") == ["controlnet/ControlNet", "controlnet/x"]


def test_sizes_follow_the_model(tmp_path: Path) -> None:
    model = _model(model_folder(tmp_path / "m"))
    by_role = {p.part.role: p for p in layouts.planned(model, Wanted(sizes=((16, 32),)))}
    assert by_role["denoiser"].signature.extents[0] == {"sample": (8, 16), "encoder_hidden_states": (12,)}
    assert by_role["encoder"].signature.extents[0] == {"sample": (16, 32)}
    assert by_role["decoder"].signature.extents[0] == {"latent_sample": (8, 16)}
    with pytest.raises(InputError, match="multiples of 2"):
        layouts.planned(model, Wanted(sizes=((15, 16),)))
