"""A bundle of several forms: what its manifest says, which form a device gets, and that pictures agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import family_folders
import numpy as np
import onnx
import pytest
from export_helpers import difference, model_folder

import edgediff
from edgediff import runtime
from edgediff.bundle import Bundle, TensorSpec
from edgediff.errors import BundleError, InputError
from edgediff.export.emit.onnx import PORTABLE
from edgediff.export.forms import PROFILES, by_device, profiles_of
from edgediff.export.main import export_onnx
from edgediff.onnx_scan import scan

pytestmark = pytest.mark.slow

ALL = tuple(PROFILES)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("profiles")
    export_onnx(str(model_folder(folder / "model")), str(folder / "out"), dtype=request.param, profiles=ALL)
    return Bundle.open(folder / "out")


def test_every_role_has_every_form(bundle: Bundle) -> None:
    for role, specs in bundle.components.items():
        assert [spec.profile for spec in specs] == list(ALL), role
        assert len({spec.file for spec in specs}) == len(ALL)
        assert len({spec.weights for spec in specs}) == 1
    assert bundle.components["denoiser"][1].file == "unet/ort_cpu.onnx"
    bundle.verify()


def test_no_tensor_is_stored_twice(bundle: Bundle) -> None:
    """All forms name the same bytes of the one weights file, which none of them leaves a gap in."""
    for role, specs in bundle.components.items():
        found: dict[str, set[tuple[str, ...]]] = {}
        for spec in specs:
            for tensor in onnx.load(bundle.path / spec.file, load_external_data=False).graph.initializer:
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    place = tuple(pair.value for pair in tensor.external_data)
                    found.setdefault(tensor.name, set()).add(place)
                else:
                    assert len(tensor.raw_data) < 8192
        assert found, role
        assert all(len(places) == 1 for places in found.values()), role


def test_the_scan_takes_every_form(bundle: Bundle) -> None:
    for specs in bundle.components.values():
        for spec in specs:
            report = scan(bundle.path / spec.file, spec)
            assert report.ir_version <= 10
            assert 17 <= report.opsets[""] <= 21


@pytest.mark.parametrize(
    ("device", "profile"),
    [
        ("auto", "ort-cpu"),
        ("cpu", "ort-cpu"),
        ("cuda", "ort-cuda"),
        ("coreml", "coreml-ep"),
        ("openvino", "openvino"),
        ("webgpu", "portable"),
        ("a device of tomorrow", "portable"),
    ],
)
def test_each_device_gets_its_form(bundle: Bundle, device: str, profile: str) -> None:
    assert bundle.graph("denoiser", "onnxruntime", device).profile == profile


def test_a_form_that_is_missing(bundle: Bundle) -> None:
    """Without its own form a device takes the portable one; without that, it is told what there is."""
    components = {role: specs[:1] for role, specs in bundle.components.items()}
    assert replace(bundle, components=components).graph("decoder", device="cuda").profile == "portable"
    components = {role: specs[1:2] for role, specs in bundle.components.items()}
    others = replace(bundle, components=components)
    assert others.graph("decoder").profile == "ort-cpu"
    with pytest.raises(BundleError, match=r"for decoder on cuda; the bundle has .*onnxruntime/ort-cpu"):
        others.graph("decoder", device="cuda")


def test_a_manifest_without_the_table_means_its_first_graph(bundle: Bundle) -> None:
    components = {role: specs[::-1] for role, specs in bundle.components.items()}
    older = replace(bundle, components=components, profiles={})
    assert older.graph("denoiser").profile == "openvino"


def drawn(bundle: Bundle, *profiles: str, **options: Any) -> tuple[np.ndarray[Any, Any], dict[str, str]]:
    with edgediff.load(replace(bundle, profiles={"cpu": profiles}), threads=1) as pipe:
        images = pipe("ab", num_inference_steps=2, seed=1, output_type="np", **options).images
        return images, {role: info.profile for role, info in pipe.infos().items()}


def test_pictures_of_all_forms_agree(bundle: Bundle) -> None:
    wanted, used = drawn(bundle, "portable", guidance_scale=3.0)
    assert set(used.values()) == {"portable"}
    for profile in ("ort-cpu", "coreml-ep"):
        found, used = drawn(bundle, profile, guidance_scale=3.0)
        assert set(used.values()) == {profile}
        assert np.abs(found - wanted).max() < 1e-4


def test_a_fixed_form_draws_batches_one_by_one(bundle: Bundle) -> None:
    wanted, _ = drawn(bundle, "portable", num_images_per_prompt=3, guidance_scale=3.0)
    found, _ = drawn(bundle, "coreml-ep", num_images_per_prompt=3, guidance_scale=3.0)
    assert len(found) == 3
    assert np.abs(found - wanted).max() < 1e-4


def test_a_fixed_form_refuses_another_size(bundle: Bundle) -> None:
    size = {name: 2 * extent for name, extent in bundle.defaults.size.items()}
    with pytest.raises(InputError, match=r"sample: this form of the graph takes the shape \(1, 4, "):
        drawn(bundle, "coreml-ep", **size)


@pytest.mark.parametrize("names", [[], ["ort-cpu"], ["portable", "cuda"]])
def test_names_of_profiles_are_checked(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="known are portable, ort-cpu, ort-cpu-avx2, ort-cuda, coreml-ep"):
        export_onnx("nowhere", str(tmp_path / "out"), profiles=names)


def test_the_table_names_what_was_written() -> None:
    plain = by_device(profiles_of(["portable"]))
    assert set(map(tuple, plain.values())) == {("portable",)}
    table = by_device(profiles_of(["ort-cuda", "portable"]))
    assert (table["cuda"], table["cpu"]) == (["ort-cuda", "portable"], ["portable"])
    assert profiles_of(["ort-cuda", "portable"])[0] is PORTABLE


@pytest.mark.parametrize("family", ["xl", "control", "tiny"])
def test_every_family_has_every_form(family: str, tmp_path: Path) -> None:
    """And the form for ONNX Runtime's CPU provider gives the portable one's numbers, through the runtime."""
    make = family_folders.xl_folder if family == "xl" else model_folder
    source, beside = make(tmp_path / "model"), tmp_path / "beside"
    choices: dict[str, Any] = {}
    if family == "control":
        choices["controlnets"] = [str(family_folders.control_folder(beside))]
    elif family == "tiny":
        choices["parts"] = {"vae": str(family_folders.tiny_autoencoder(beside))}
    export_onnx(str(source), str(tmp_path / "out"), profiles=ALL, **choices)
    found = Bundle.open(tmp_path / "out")
    for role, specs in found.components.items():
        fixed = "control" not in role
        wanted = [name for name in ALL if fixed or not PROFILES[name].fixed]
        assert [spec.profile for spec in specs] == wanted
        portable, fused = (runtime.find("onnxruntime").load(
            spec, found.path / spec.file, "cpu", {"threads": 1}, {}
        ) for spec in specs[:2])  # fmt: skip
        inputs = {t.name: fed(t) for t in specs[0].inputs}
        wanted, got = portable(inputs), fused(inputs)
        for name in wanted:
            assert difference(got[name], wanted[name]) < 1e-4, (role, name)
    if family == "control":
        assert found.components["controlled_denoiser"][1].file == "unet/controlled_ort_cpu.onnx"
        files = {spec.weights for r in ("denoiser", "controlled_denoiser") for spec in found.components[r]}
        assert files == {("unet/model.onnx_data",)}


def fed(tensor: TensorSpec) -> np.ndarray[Any, Any]:
    """Two pictures' worth of an input; the names of residuals' extents say how often they were halved."""
    sizes = {"batch_size": 2, "sequence_length": 12, "picture_height": 32, "picture_width": 32}
    shape = []
    for dim in tensor.dims:
        parts = str(dim).rpartition("_")
        small = 16 // int(parts[2]) if parts[2].isdigit() else 16
        shape.append(dim if isinstance(dim, int) else sizes.get(dim, small))
    rng = np.random.default_rng(len(tensor.name))
    if tensor.dtype == "int64":
        return rng.integers(0, 30, shape)
    return rng.standard_normal(shape).astype(tensor.dtype)
