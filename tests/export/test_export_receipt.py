"""The receipt: sound bundles of every scheme pass the gates, bundles that were broken on purpose do not."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from export_helpers import DDIM, TINY_UNET, model_folder

from edgediff import reference
from edgediff.bundle import Bundle
from edgediff.errors import BundleError
from edgediff.export.assemble import Asked, assemble
from edgediff.export.bundle_folder import Content, fill
from edgediff.export.emit.integers import Quantization
from edgediff.export.emit.onnx import PORTABLE
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.families import stable_diffusion
from edgediff.export.json_files import dump_json
from edgediff.export.main import export_onnx
from edgediff.export.quantize.calibrate import calibrate
from edgediff.export.quantize.gates import FLOORS, floors, judge
from edgediff.export.quantize.plan import SCHEMES, Plan
from edgediff.export.quantize.receipt import receipt
from edgediff.export.quantize.recording import record
from edgediff.export.quantize.schemes import plan_of
from edgediff.export.write import MANIFEST, Folder
from edgediff.quality import MOST

WORDS = ["a b", "c"]
UNET = {"block_out_channels": [32, 64], "cross_attention_dim": 16, "sample_size": 8}


class Made(NamedTuple):
    """A quantized bundle and what it was made from."""

    parent: Path
    bundle: Path
    model: Any
    plan: Plan
    quantizations: dict[str, Quantization]

    def receipt(self, **options: Any) -> dict[str, Any]:
        return receipt(
            self.parent, self.bundle, self.model, self.plan, self.quantizations,
            **{"timed": False, **options},
        )  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # What a random network calls noise makes samples grow without bound, and no range fits all steps.
    scheduler = {**DDIM, "prediction_type": "v_prediction"}
    folder = tmp_path_factory.mktemp("receipt") / "model"
    return model_folder(folder, unet={**TINY_UNET, **UNET}, scheduler=scheduler)


@pytest.fixture(scope="module")
def made(source: Path) -> Callable[[str], Made]:
    """A bundle of each scheme, made once."""
    parent = source.with_name("fp32")
    export_onnx(str(source), str(parent), verify=False)
    known: dict[str, Made] = {}

    def make(scheme: str) -> Made:
        found = assemble(Asked(str(source)), lambda line: None)
        model = stable_diffusion.build(found.source, found.recipe)
        plan = plan_of(scheme, model)
        spans = calibrate(parent, model, plan, prompts=WORDS) if scheme == "int8" else {}
        layers = {
            part.role: Quantization(plan.choices(part.role), spans.get(part.role, {})) for part in model.parts
        }
        layers = {} if scheme == "fp16" else layers
        folder = Folder(source.with_name(scheme))
        folder.path.mkdir()
        storage = "fp16" if scheme == "fp16" else "fp32"
        content = Content(storage, (PORTABLE, ORT_CPU), scheme, verify=False, quantizations=layers)  # type: ignore[arg-type]
        filled = fill(folder, found.source, model, content, lambda line: None)
        folder.write(reference.FILE, record(parent, model, prompts=WORDS))
        folder.write(MANIFEST, dump_json({**filled.manifest, "files": dict(sorted(folder.files.items()))}))
        return Made(parent, folder.path, model, plan, layers)

    return lambda scheme: known.setdefault(scheme, known.get(scheme) or make(scheme))


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "mixed"])
def test_a_sound_bundle_passes(made: Callable[[str], Made], scheme: str) -> None:
    one = made(scheme)
    files = sorted(one.parent.rglob("*")), sorted(one.bundle.rglob("*"))
    told = one.receipt()
    assert (sorted(one.parent.rglob("*")), sorted(one.bundle.rglob("*"))) == files
    assert judge(told, scheme) == []
    assert told["weights_bytes"] < told["parent_weights_bytes"]
    assert set(told["components"]) == {"text_encoder", "denoiser", "decoder", "encoder"}
    for role, component in told["components"].items():
        assert component["form"] == "ort-cpu"
        assert set(component["forms"]) == {"portable", "ort-cpu"}
        assert component["snr_db"] > FLOORS[scheme].component
        worst = component["worst_layer"]
        if scheme == "fp16":
            assert worst is None
        else:
            assert one.quantizations[role].choices[worst["name"]] != "float"
            assert worst["snr_db"] < MOST
    assert Bundle.open(with_entry(one.bundle, told)).quality["scheme"] == scheme


def with_entry(bundle: Path, told: dict[str, Any]) -> Path:
    """Write the receipt into a bundle's manifest."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "quality": told}))
    return bundle


def damaged(one: Made, target: Path, damage: Callable[[str, np.ndarray], np.ndarray | None]) -> Made:  # type: ignore[type-arg]
    """A copy of a bundle with other bytes of its U-Net's weights, and the manifest's digest to match.

    ``damage`` gets the name and the numbers of each tensor in the file; None leaves it as it is.
    """
    shutil.copytree(one.bundle, target)
    data = bytearray((target / "unet/model.onnx_data").read_bytes())
    kinds = {1: "<f4", 2: "u1", 3: "i1", 21: "u1"}  # uint4 in pairs
    for entry in onnx.load(str(target / "unet/model.onnx"), load_external_data=False).graph.initializer:
        if entry.external_data and entry.data_type in kinds:
            place = {pair.key: pair.value for pair in entry.external_data}
            first, length = int(place["offset"]), int(place["length"])
            array = np.frombuffer(bytes(data[first : first + length]), kinds[entry.data_type])
            other = damage(entry.name, array)
            if other is not None:
                data[first : first + length] = other.astype(array.dtype).tobytes()
    (target / "unet/model.onnx_data").write_bytes(data)
    manifest = json.loads((target / MANIFEST).read_text())
    digest = hashlib.sha256(data).hexdigest()
    manifest["files"]["unet/model.onnx_data"] = {"bytes": len(data), "sha256": digest}
    (target / MANIFEST).write_text(json.dumps(manifest))
    return one._replace(bundle=target)


DAMAGES: dict[str, Callable[[str, Any], Any]] = {
    "NaN scales": lambda name, array: array * np.nan if name.endswith(".scales") else None,
    "scales swapped": lambda name, array: (
        np.roll(array, array.size // 2 + 1) * 2 if name.endswith(".scales") else None
    ),
    "wrong zero point": lambda name, array: (
        array.astype(np.int64) + (32 if array.dtype == np.int8 else 0x44)
        if array.dtype != np.float32
        else None
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("scheme", ["int8", "int8-weights", "int4-weights"])
def test_a_broken_bundle_fails_every_gate(
    made: Callable[[str], Made], tmp_path: Path, scheme: str, damage: str
) -> None:
    broken = damaged(made(scheme), tmp_path / "broken", DAMAGES[damage])
    told = broken.receipt()
    reasons = judge(told, scheme)
    for said in ("denoiser: SNR", "final latents: SNR", "pictures: "):
        assert any(reason.startswith(said) for reason in reasons), (said, reasons)
    assert any("form portable" in reason for reason in reasons)  # the other form has the same weights
    assert not any(reason.startswith(("decoder", "text_encoder", "encoder")) for reason in reasons)
    if damage == "NaN scales" and scheme != "int8":  # rounded to integers, it becomes some number
        assert sum("not finite" in reason for reason in reasons) >= 4


def test_the_worst_layer_is_the_one_that_was_broken(made: Callable[[str], Made], tmp_path: Path) -> None:
    layer = "up_blocks.1.resnets.1.conv2"

    def damage(name: str, array: Any) -> Any:
        return -array if name == f"{layer}.weight" else None

    told = damaged(made("int8-weights"), tmp_path / "broken", damage).receipt()
    worst = told["components"]["denoiser"]["worst_layer"]
    assert worst["name"] == layer
    # Of a negative of itself the error is twice the signal: -6.02 dB, but for the bias.
    assert worst["snr_db"] == pytest.approx(-6.02, abs=0.5)


def test_a_form_that_does_not_load_is_an_error(made: Callable[[str], Made], tmp_path: Path) -> None:
    one = made("int8-weights")
    broken = replace_file(one, tmp_path / "broken", "unet/model.onnx", b"no graph")
    with pytest.raises(BundleError, match=r"unet/model\.onnx"):
        broken.receipt()


def replace_file(one: Made, target: Path, name: str, data: bytes) -> Made:
    """A copy of a bundle with another file, which the manifest lists."""
    shutil.copytree(one.bundle, target)
    (target / name).write_bytes(data)
    manifest = json.loads((target / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (target / MANIFEST).write_text(json.dumps(manifest))
    return one._replace(bundle=target)


def test_both_are_timed_side_by_side(made: Callable[[str], Made]) -> None:
    one = made("int8-weights")
    lines: list[str] = []
    told = one.receipt(timed=True, rounds=2, report=lines.append, min_psnr=7.5)
    assert "timing denoiser beside its float parent" in lines
    assert told["floors"]["latents_psnr_db"] == 7.5
    for component in told["components"].values():
        assert component["forms"]["ort-cpu"]["timed"]
        assert not component["forms"]["portable"]["timed"]
        for key in ("taken", "parent_taken"):
            assert component[key]["load_s"] > 0
            assert component[key]["pass_s"]["rounds"] == 2
    taken = told["taken"]
    steps = Bundle.open(one.bundle).defaults.num_inference_steps
    assert taken["passes"] == {"text_encoder": 1, "decoder": 1, "denoiser": steps}
    median = told["components"]["denoiser"]["taken"]["pass_s"]["median"]
    assert steps * median < taken["seconds"] < steps * median + 1
    assert told["machine"]["cores"]
    json.dumps(told, allow_nan=False)


def found(**changes: Any) -> dict[str, Any]:
    """A receipt that passes every gate of every scheme."""
    component = {"form": "a", "snr_db": 60.0, "forms": {"a": {"snr_db": 60.0}, "b": {"snr_db": 60.0}}}
    component["worst_layer"] = {"name": "conv_in", "snr_db": 60.0}
    taken = {"seconds": 1.0, "parent_seconds": 1.5, "rss_bytes": 10, "parent_rss_bytes": 20}
    return {
        "components": {"denoiser": component}, "latents_psnr_db": 60.0, "latents_snr_db": 60.0,
        "pictures": {"psnr_db": 60.0, "ssim": 1.0}, "taken": taken, "weights_bytes": 1,
        "parent_weights_bytes": 2, **changes,
    }  # fmt: skip


def taken(**changes: Any) -> dict[str, Any]:
    return {"taken": {**found()["taken"], **changes}}


FAILURES: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (("int8",), taken(seconds=1.6), "takes 1.6 s and with its float parent 1.5 s"),
    (("int8-weights", "int4-weights"), taken(seconds=2.0), "1.3 times as long is allowed"),
    (("int8-weights", "int4-weights"), taken(rss_bytes=20), "MB of memory"),
    (("fp16", "mixed"), {"weights_bytes": 2}, "its weights have 2 bytes"),
    (SCHEMES, {"latents_psnr_db": 1.0}, "final latents: PSNR 1.0 dB, the floor is"),
    (SCHEMES, {"latents_snr_db": -MOST}, "final latents: SNR not finite"),
    (SCHEMES, {"pictures": {"psnr_db": 60.0, "ssim": 0.01}}, "pictures: SSIM 0.010"),
    (SCHEMES, {"pictures": {"psnr_db": 5.0, "ssim": None}}, "pictures: PSNR 5.0 dB"),
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_gate_is_for_its_schemes(scheme: str) -> None:
    assert judge(found(), scheme) == []
    assert judge(found(pictures=None, taken=None), scheme) == []  # no picture, nothing timed
    for schemes, change, said in FAILURES:
        reasons = judge(found(**change), scheme)
        if scheme in schemes:
            assert len(reasons) == 1, reasons
            assert said in reasons[0]
        else:
            assert not any(said in reason for reason in reasons)
    low = found()
    low["components"]["denoiser"]["forms"]["b"]["snr_db"] = 1.0
    (reason,) = judge(low, scheme)
    assert "form b: SNR 1.0 dB" in reason
    assert "final latents: PSNR 60.0 dB, the floor is 61 dB" in judge(found(), scheme, min_psnr=61.0)
    low = found()
    low["components"]["denoiser"]["worst_layer"]["snr_db"] = 2.0
    (reason,) = judge(low, scheme)
    assert reason.startswith("denoiser, layer conv_in: SNR 2.0 dB, the floor is")
    unknown = taken(rss_bytes=None, parent_rss_bytes=None)
    assert judge(found(**unknown), scheme) == []


def test_floors_are_in_order() -> None:
    """What changes less must hold more."""
    order = [FLOORS[scheme] for scheme in ("fp16", "int8-weights", "int8", "int4-weights")]
    for more, less in itertools.pairwise(order):
        for name in ("component", "layer", "latents_psnr", "latents", "pictures", "ssim"):
            assert getattr(more, name) >= getattr(less, name)
    assert floors("int8", ["denoiser"], 33.0)["latents_psnr_db"] == 33.0
