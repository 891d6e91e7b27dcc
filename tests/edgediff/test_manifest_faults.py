"""Faults of manifests that are no faults of form: fields nobody knows, files nobody lists, contradictions.

Rows F009 to F016, F018 to F020, F022 and F023 of the fault table are held by ``test_bundle.py`` and by the
examples of ``test_bundle_examples.py``; what those leave open is here, and F017, F021, F024, F051 and F052.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgediff
from edgediff.bundle import TOKENIZER_FILES, Bundle
from edgediff.errors import BundleError, IntegrityError, UnsupportedError
from edgediff.manifest import UnknownField
from edgediff.pipeline import EMBEDDED
from tests import tiny


@pytest.fixture
def folder(fake_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(fake_bundle, tmp_path / "bundle"))


def changed(folder: Path, change: Callable[[Any], Any]) -> Path:
    """Change a bundle's manifest."""
    value = json.loads((folder / "edgediff.json").read_text(encoding="utf-8"))
    change(value)
    (folder / "edgediff.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


@pytest.mark.parametrize("content", [b"", b"\0", b"\n", b"null", b"[]", b"7"])
def test_f009_nothing_in_it(folder: Path, content: bytes) -> None:
    (folder / "edgediff.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"edgediff\.json"):
        Bundle.open(folder)


def test_f010_a_pointer_to_the_manifest(folder: Path) -> None:
    (folder / "edgediff.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(BundleError, match="git lfs pull"):
        Bundle.open(folder)


@pytest.mark.parametrize("number", ["1e3", "16.0", "true", '"16"', "-0", "1" * 5000])
def test_f014_f015_numbers_of_another_kind(folder: Path, number: str) -> None:
    text = (folder / "edgediff.json").read_text().replace('"length": 16', f'"length": {number}')
    (folder / "edgediff.json").write_text(text)
    with pytest.raises(BundleError, match=r"length|digits"):
        Bundle.open(folder)


ADDED: dict[str, Callable[[Any], Any]] = {
    "new": lambda m: m.update(new={"deep": [1, {"a": None}]}),
    "model.new": lambda m: m["model"].update(new=1),
    "model.latents.new": lambda m: m["model"]["latents"].update(new=None),
    "model.text.new": lambda m: m["model"]["text"].update(new=[]),
    "defaults.new": lambda m: m["defaults"].update(new=0.5),
    "components.decoder.new": lambda m: m["components"]["decoder"].update(new="a"),
    "components.decoder.graphs[0].new": lambda m: m["components"]["decoder"]["graphs"][0].update(new=1),
    "components.decoder.graphs[0].inputs[0].new": lambda m: m["components"]["decoder"]["graphs"][0]["inputs"][
        0
    ].update(new=1),
    "files.model_index.json.new": lambda m: m["files"].update(
        {"model_index.json": {"bytes": 1, "sha256": "0" * 64, "new": 1}}
    ),
}


@pytest.mark.parametrize("field", ADDED)
def test_f017_unknown_fields(folder: Path, field: str) -> None:
    changed(folder, ADDED[field])
    with pytest.warns(UnknownField) as caught:
        Bundle.open(folder)
    (warning,) = caught
    assert f"edgediff.json: {field}: unknown to this edgediff" in str(warning.message)
    assert Path(warning.filename) == Path(__file__)  # whoever opened it is who reads the warning


def test_f017_one_warning_for_all(folder: Path) -> None:
    def add(manifest: Any) -> None:
        manifest |= {f"new_{i}": i for i in range(7)} | {"\x1b[2J\n" + "a" * 500: 1}
        manifest["format_version"] = "1.9999"

    changed(folder, add)
    with pytest.warns(UnknownField, match=r"new_0, new_1, new_2, new_3, new_4 and 3 more") as caught:
        assert Bundle.open(folder).format_version == "1.9999"
    assert len(caught) == 1
    changed(folder, lambda m: [m.pop(f"new_{i}") for i in range(7)])
    with pytest.warns(UnknownField) as caught:
        Bundle.open(folder)
    assert str(caught[0].message).isprintable()
    assert len(str(caught[0].message)) < 300 + len(str(folder))


def test_f017_what_may_hold_anything(folder: Path) -> None:
    def add(manifest: Any) -> None:
        manifest["origin"]["new"] = manifest["model"]["scheduler"]["new"] = {"a": 1}
        manifest |= {"measured": {"new": 1}, "quality": {"new": 1}}

    changed(folder, add)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Bundle.open(folder)
        Bundle.open(EMBEDDED)


@pytest.mark.parametrize("version", ["0.9", "2.0", "10.0"])
def test_f017_another_major_version(folder: Path, version: str) -> None:
    changed(folder, lambda m: m.update(format_version=version))
    with pytest.raises(UnsupportedError, match=rf"format version {version}; this edgediff reads 1\.x"):
        Bundle.open(folder)


def test_f020_a_huge_manifest_is_refused_by_its_size(folder: Path) -> None:
    with (folder / "edgediff.json").open("wb") as stream:
        stream.truncate(1 << 30)  # sparse: takes no room on the disk
    began = time.monotonic()
    with pytest.raises(BundleError, match="more than the 1048576 allowed"):
        Bundle.open(folder)
    assert time.monotonic() - began < 1


def test_f021_a_file_that_is_missing(folder: Path) -> None:
    (folder / "unet/model.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"unet/model\.onnx: there is no such file"):
        Bundle.open(folder).verify()
    with pytest.raises(IntegrityError, match=r"unet/model\.onnx"):
        edgediff.load(folder, runtime="null")("a", seed=0)


@pytest.mark.parametrize("name", ["unet/more.onnx", "unet/model.onnx_data", "tokenizer/added_tokens.json"])
def test_f021_a_file_that_is_not_listed(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(BundleError, match=rf"{name}: the manifest does not list it"):
        Bundle.open(folder).verify()
    edgediff.load(folder, runtime="null")("a", seed=0)  # nothing reads it


def test_f021_what_may_lie_beside_a_bundle(folder: Path) -> None:
    for name in ("README.md", ".gitattributes", "unet/.DS_Store"):
        (folder / name).write_text("")
    (folder / "samples").mkdir()
    (folder / "samples/a.png").write_bytes(b"")
    (folder / "unet/cache").mkdir()
    Bundle.open(folder).verify()


@pytest.mark.parametrize("name", sorted(TOKENIZER_FILES - {"tokenizer.json"}))
@pytest.mark.parametrize("verify", [True, False])
def test_f021_f073_files_of_the_tokenizer_that_are_not_listed(folder: Path, name: str, verify: bool) -> None:
    """They would be read: a vocabulary or special tokens that nobody vouches for."""
    changed(folder, lambda m: m["files"].pop(f"tokenizer/{name}"))
    with pytest.raises(BundleError, match=rf"tokenizer/{name}: the manifest does not list it; remove it"):
        edgediff.load(folder, runtime="null", verify=verify)("a", seed=0)
    (folder / "tokenizer" / name).unlink()
    edgediff.load(folder, runtime="null", verify=verify)("a", seed=0)


def test_f022_each_file_of_a_picture(folder: Path) -> None:
    manifest = json.loads((folder / "edgediff.json").read_text())
    used = [name for name in manifest["files"] if name != "model_index.json"]
    assert len(used) > 5
    for name in used:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(IntegrityError) as caught:
            edgediff.load(folder, runtime="null")("a", seed=0)
        message = str(caught.value)
        assert name in message
        assert manifest["files"][name]["sha256"] in message
        assert message.count("sha256 is") == 1
        (folder / name).write_bytes(content)


def graph_of(manifest: Any, role: str) -> Any:
    return manifest["components"][role]["graphs"][0]


def _hidden(manifest: Any) -> None:
    graph_of(manifest, "text_encoder")["outputs"][0]["dims"][-1] = 12


def _channels(manifest: Any) -> None:
    manifest["model"]["latents"]["channels"] = 16


def _decoder_channels(manifest: Any) -> None:
    graph_of(manifest, "decoder")["inputs"][0]["dims"][1] = 16


def _decoder_rank(manifest: Any) -> None:
    graph_of(manifest, "decoder")["inputs"][0]["dims"].append("depth")


def _length(manifest: Any) -> None:
    manifest["model"]["text"]["length"] = tiny.LENGTH + 1


def _factor(manifest: Any) -> None:
    graph_of(manifest, "decoder")["inputs"][0]["dims"][2] = 8
    graph_of(manifest, "decoder")["outputs"][0]["dims"][2] = 32


def _guidance(manifest: Any) -> None:
    manifest["model"]["guidance_embedding"] = {"dims": 256}
    condition = {"name": "timestep_cond", "dtype": "float32", "dims": ["batch", 64]}
    graph_of(manifest, "denoiser")["inputs"].append(condition)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_channels, "decoder's latent_sample has 4, which contradicts model.latents.channels of 16"),
        (_decoder_channels, "decoder's latent_sample has 16"),
        (_decoder_rank, "decoder's latent_sample has 5 dims"),
        (_length, "text_encoder's input_ids has 16"),
        (_factor, "8 to 32, which contradicts model.latents.downscale of 8"),
        (_guidance, "timestep_cond has 64, which contradicts model.guidance_embedding.dims of 256"),
        (
            _hidden,
            "encoder_hidden_states has 8, which contradicts the text encoder's last_hidden_state of 12",
        ),
    ],
)
def test_f024_f051_f052_contradictions(folder: Path, change: Callable[[Any], Any], says: str) -> None:
    with pytest.raises(BundleError, match=says) as caught:
        Bundle.open(changed(folder, change))
    assert "export the bundle again" in str(caught.value)


def test_networks_that_fill_in_pictures_read_more(folder: Path) -> None:
    def widen(manifest: Any) -> None:
        graph_of(manifest, "denoiser")["inputs"][0]["dims"][1] = 9

    assert Bundle.open(changed(folder, widen)).latents.channels == 4


def test_f024_a_manifest_that_contradicts_its_graph(onnx_bundle: Path, tmp_path: Path) -> None:
    """Here the manifest agrees with itself; the graph says otherwise, before it is opened."""
    folder = Path(shutil.copytree(onnx_bundle, tmp_path / "bundle"))

    def rename(manifest: Any) -> None:
        graph_of(manifest, "decoder")["outputs"][0]["name"] = "picture"

    with pytest.raises(BundleError, match=r"manifest has the outputs 'picture' and the graph has 'sample'"):
        edgediff.load(changed(folder, rename))("a", seed=0)
    untold = json.loads((onnx_bundle / "edgediff.json").read_text())
    assert graph_of(untold, "decoder")["outputs"][0]["name"] == "sample"
