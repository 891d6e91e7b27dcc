"""The Core ML runtime on a stand-in for coremltools, whose numbers the interpreter computes."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff import runtime
from edgediff.bundle import Bundle
from edgediff.errors import (
    BundleError,
    CancelledError,
    InputError,
    NumericError,
    ResourceError,
    UnsupportedError,
)
from edgediff.parts import Parts
from edgediff.runtimes import _coreml_cache as cache
from edgediff.runtimes import _coreml_child as child
from edgediff.runtimes import _coreml_tools as tools
from tests.runtimes import coreml_packages
from tests.runtimes.mac import Mac, fake

real = pytest.importorskip("coremltools")
pytestmark = pytest.mark.filterwarnings("ignore:.*Core ML compiles it once")
FED = {
    "sample": np.arange(64, dtype=np.float32).reshape(coreml_packages.SHAPE),
    "timestep": np.array([7], np.float32),
}
RIGHT = 2 * FED["sample"] + 7


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    coreml_packages.write_bundle(folder / "whole")
    coreml_packages.write_bundle(folder / "pieces", pieces=True)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written / "whole", tmp_path / "bundle"))


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: Path) -> Mac:
    return Mac(monkeypatch, tmp_path)


def graph(folder: Path, device: str = "auto") -> Any:
    return Parts(Bundle.open(folder), device).graph("denoiser")


def test_the_stand_in_is_called_as_coremltools_is() -> None:
    ours = fake()
    for mine, theirs in (
        (ours.models.CompiledMLModel.__init__, real.models.CompiledMLModel.__init__),
        (ours.models.CompiledMLModel.predict, real.models.CompiledMLModel.predict),
        (ours.models.utils.compile_model, real.models.utils.compile_model),
    ):
        wanted = inspect.signature(theirs).parameters
        found = inspect.signature(mine).parameters
        assert list(found) == list(wanted)
        for name, parameter in wanted.items():
            assert found[name].kind == parameter.kind
            assert str(found[name].default) == str(parameter.default)
    assert {u.name: u.value for u in ours.ComputeUnit} == {u.name: u.value for u in real.ComputeUnit}


@pytest.mark.parametrize("kind", ["whole", "pieces"])
def test_numbers(mac: Mac, written: Path, kind: str) -> None:
    network = graph(written / kind)
    np.testing.assert_array_equal(network(FED)["out.sample"], RIGHT)
    assert network.info.provider == "CoreML:CPU_AND_NE"  # the form is for the Neural Engine
    assert network.info.runtime == "coreml"
    network.close()
    with pytest.raises(ResourceError, match="was closed"):
        network(FED)


@pytest.mark.parametrize(
    ("device", "units"),
    [("coreml", "CPU_AND_NE"), ("coreml-gpu", "CPU_AND_GPU"), ("coreml-cpu", "CPU_ONLY"), ("cpu", "CPU_ONLY"),
     ("coreml-all", "ALL"), ("denoiser=coreml-gpu,decoder=cpu", "CPU_AND_GPU")],
)  # fmt: skip
def test_devices(mac: Mac, folder: Path, device: str, units: str) -> None:
    assert graph(folder, device).info.provider == f"CoreML:{units}"
    assert set(mac.calls()) == {"compile", f"load {units}", "predict"}


def test_devices_that_are_not_there(mac: Mac, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = runtime.find("coreml").devices()
    assert names == ("coreml", "coreml-cpu", "coreml-gpu", "coreml-ne", "coreml-all")
    with pytest.raises(InputError, match="device 'cuda': the coreml runtime has"):
        graph(folder, "cuda")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert "coreml-ne" not in runtime.find("coreml").devices()
    assert tools.units("auto", "split-einsum") == "CPU_AND_GPU"
    with pytest.raises(UnsupportedError, match="no Neural Engine; take coreml-gpu"):
        graph(folder, "coreml-ne")
    assert tools.units("auto", "original") == "CPU_AND_GPU"


def test_no_mac(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(tools, "on_mac", lambda: False)
    with pytest.raises(UnsupportedError, match=r"needs macOS.*--runtime mil"):
        graph(folder)
    with pytest.raises(UnsupportedError, match="needs macOS"):
        runtime.find("coreml").devices()
    assert tools.devices() == ()


def test_a_package_is_compiled_tried_and_proven_once(mac: Mac, folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"Unet\.mlpackage: Core ML compiles it once"):
        graph(folder)
    assert mac.calls() == ["compile", "load CPU_AND_NE", "load CPU_AND_NE", "predict"]
    graph(folder)
    assert mac.calls() == ["load CPU_AND_NE"]
    moved = folder.rename(tmp_path / "moved")  # the content counts, not the place
    graph(moved, "coreml-gpu")
    assert mac.calls() == ["load CPU_AND_GPU", "load CPU_AND_GPU", "predict"]
    assert len(mac.entries()) == 1


def test_another_content_or_system_is_compiled_again(mac: Mac, folder: Path) -> None:
    graph(folder)
    mac.system("15.4")
    mac.calls()
    graph(folder)
    assert "compile" in mac.calls()
    assert len(mac.entries()) == 1  # what the older system compiled is of no use to anybody
    manifest = folder / "coreml/Unet.mlpackage/Manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    coreml_packages.sealed(folder)
    graph(folder)
    assert "compile" in mac.calls()
    assert len(mac.entries()) == 2


def test_a_half_written_entry_is_made_anew_once(mac: Mac, folder: Path) -> None:
    graph(folder)
    (mac.entries()[0] / "coremldata.bin").unlink()
    notes = mac.entries()[0].parent / "notes.json"
    notes.unlink()
    mac.calls()
    np.testing.assert_array_equal(graph(folder)(FED)["out.sample"], RIGHT)
    assert mac.calls()[:3] == ["load CPU_AND_NE", "compile", "load CPU_AND_NE"]


def test_a_process_that_ended_while_it_loaded_leaves_a_mark(mac: Mac, folder: Path) -> None:
    graph(folder)
    (mac.entries()[0].parent / "loading-CPU_AND_NE").touch()
    mac.calls()
    graph(folder)
    assert mac.calls() == ["load CPU_AND_NE", "load CPU_AND_NE"]  # tried in a child first
    graph(folder)
    assert mac.calls() == ["load CPU_AND_NE"]


@pytest.mark.parametrize("how", ["abort", "fail"])
def test_a_unit_that_cannot_load_it(mac: Mac, folder: Path, how: str) -> None:
    mac.fails(f"{how}-load-CPU_AND_NE")
    reason = "SIGABRT" if how == "abort" else "not enough memory"
    for again in (False, True):
        with pytest.raises(UnsupportedError, match=f"on CPU_AND_NE.*{reason}.*coreml-gpu or coreml-cpu"):
            graph(folder)
        assert mac.calls().count("compile") == (0 if again else 1)
    np.testing.assert_array_equal(graph(folder, "coreml-gpu")(FED)["out.sample"], RIGHT)
    mac.fails()  # memory came back
    np.testing.assert_array_equal(graph(folder)(FED)["out.sample"], RIGHT)


@pytest.mark.parametrize("how", ["abort", "fail"])
def test_a_package_that_cannot_be_compiled(mac: Mac, folder: Path, how: str) -> None:
    mac.fails(f"{how}-compile")
    reason = "SIGABRT" if how == "abort" else "unable to parse"
    with pytest.raises(UnsupportedError, match=f"Unet.mlpackage: Core ML cannot load it.*{reason}"):
        graph(folder)
    assert not mac.entries()
    assert not [path for path in mac.cache.rglob("*") if path.name.startswith(".making")]


def test_finite_but_wrong_numbers(mac: Mac, folder: Path) -> None:
    mac.fails("wrong-CPU_AND_GPU")
    for _ in range(2):  # the second time it is remembered
        with pytest.raises(NumericError, match=r"on CPU_AND_GPU .* PSNR -?\d+\.\d dB, expected are 30"):
            graph(folder, "coreml-gpu")
    assert mac.calls().count("predict") == 1
    graph(folder, "coreml-cpu")


@pytest.mark.parametrize(
    ("shift", "precision", "passes"),
    [(0.002, "fp32", True), (0.2, "fp32", False), (0.2, "int8", True), (2.0, "int8", False)],
)
def test_the_threshold(mac: Mac, folder: Path, shift: float, precision: str, passes: bool) -> None:
    """Differences of half precision pass, those of wrong numbers do not."""
    file = folder / "golden.json"
    golden = json.loads(file.read_text())
    golden["graphs"]["denoiser"]["outputs"]["out.sample"]["values"][0] += 5.65 * shift
    file.write_text(json.dumps(golden))
    place = folder / "edgediff.json"
    manifest = json.loads(place.read_text())
    manifest["components"]["denoiser"]["graphs"][0]["precision"] = precision
    place.write_text(json.dumps(manifest))
    if passes:
        graph(folder)
    else:
        with pytest.raises(NumericError, match=r"PSNR -?\d"):
            graph(folder)


def test_an_older_system(mac: Mac, folder: Path) -> None:
    mac.system("13.6")
    with pytest.raises(UnsupportedError, match=r"needs macOS 14, this is 13\.6"):
        graph(folder)
    assert not mac.calls()


def test_a_package_of_links_is_copied_before_it_is_compiled(mac: Mac, folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for i, file in enumerate([f for f in (folder / "coreml").rglob("*") if f.is_file()]):
        file.rename(blobs / str(i))
        file.symlink_to(blobs / str(i))
    np.testing.assert_array_equal(graph(folder)(FED)["out.sample"], RIGHT)


def test_compiled_models_that_a_bundle_lists(mac: Mac, folder: Path) -> None:
    compiled = folder / "coreml/Unet.mlmodelc"
    fake().models.utils.compile_model(str(folder / "coreml/Unet.mlpackage"), str(compiled))
    shutil.rmtree(folder / "coreml/Unet.mlpackage")
    relist(folder, "coreml/Unet.mlmodelc/coremldata.bin")
    mac.calls()
    np.testing.assert_array_equal(graph(folder)(FED)["out.sample"], RIGHT)
    assert "compile" not in mac.calls()
    assert not mac.entries()  # it is not copied
    (compiled / "coremldata.bin").unlink()
    relist(folder, "coreml/Unet.mlmodelc/package.mlpackage/Manifest.json")
    with pytest.raises(UnsupportedError, match=r"no coremldata\.bin"):
        graph(folder)


def test_a_compiled_model_under_the_name_of_a_package(mac: Mac, folder: Path) -> None:
    (folder / "coreml/Unet.mlpackage/coremldata.bin").write_bytes(b"compiled")
    with pytest.raises(UnsupportedError, match="compiled model"):
        graph(folder)
    assert not mac.calls()


def test_no_package(mac: Mac, folder: Path) -> None:
    relist(folder, "tokenizer/vocab.json")
    with pytest.raises(BundleError, match="in no package"):
        graph(folder)


def test_ports_that_the_manifest_does_not_list(mac: Mac, folder: Path) -> None:
    file = folder / "edgediff.json"
    manifest = json.loads(file.read_text())
    manifest["components"]["denoiser"]["graphs"][0]["outputs"][0]["name"] = "noise"
    file.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="lists noise, the package has out_sample"):
        graph(folder)(FED)
    manifest["components"]["denoiser"]["graphs"][0]["inputs"].pop()
    file.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="reads timestep, which the manifest does not list"):
        graph(folder)(FED)


def test_cancel_counts_between_pieces(mac: Mac, written: Path) -> None:
    network = graph(written / "pieces")
    network.cancel()  # nothing runs
    network(FED)
    first = network._pieces[0].model

    class Cancelling:
        def predict(self, data: Any) -> Any:
            network.cancel()
            return first.predict(data)

    network._pieces = (network._pieces[0]._replace(model=Cancelling()), *network._pieces[1:])
    with pytest.raises(CancelledError):
        network(FED)
    network._pieces = (network._pieces[0]._replace(model=first), *network._pieces[1:])
    np.testing.assert_array_equal(network(FED)["out.sample"], RIGHT)


def test_a_call_that_core_ml_refuses(mac: Mac, folder: Path) -> None:
    network = graph(folder)
    with pytest.raises(BundleError, match="its input timestep is missing"):
        network({"sample": FED["sample"]})
    for said, expected in (("no memory left", ResourceError), ("bad shape", BundleError)):

        class Failing:
            def predict(self, data: Any, said: str = said) -> Any:
                raise RuntimeError(f"Error: {said}\x1b[31m")

        network._pieces = (network._pieces[0]._replace(model=Failing()),)
        with pytest.raises(expected, match=said) as caught:
            network(FED)
        assert "\x1b" not in str(caught.value)


def test_a_cache_that_cannot_be_written(mac: Mac, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("EDGEDIFF_CACHE", str(folder / "file"))
    with pytest.raises(ResourceError, match="set EDGEDIFF_CACHE"):
        graph(folder)


def test_a_child_that_does_not_start(mac: Mac, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(UnsupportedError, match="no process can be started"):
        graph(folder)
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    with pytest.raises(UnsupportedError, match="did not start"):
        graph(folder)
    monkeypatch.setattr("sys.executable", "")  # a frozen application does it itself
    np.testing.assert_array_equal(graph(folder)(FED)["out.sample"], RIGHT)


def test_coremltools_missing_or_broken(mac: Mac, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'edgediff\[coreml\]'"):
        graph(folder)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for name in ("EDGEDIFF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache.root() == Path("/home/somebody/Library/Caches/edgediff/coreml")


def test_what_ended_half_way_is_deleted_a_day_later(mac: Mac, folder: Path) -> None:
    graph(folder)
    beside = mac.entries()[0].parents[1]
    for name, age in ((".making-old", 2 * 86400), (".making-new", 60)):
        (beside / name).mkdir()
        then = time.time() - age
        os.utime(beside / name, (then, then))
    mac.system("15.4")
    graph(folder)
    assert {path.name for path in beside.iterdir()} == {"15.4-9.0", ".making-new"}


def test_a_child_says_one_line(mac: Mac, tmp_path: Path) -> None:
    assert child.attempt("load", str(tmp_path / "nothing.mlmodelc"), "ALL") == (
        "Unable to load model: compiled model is damaged"
    )


def relist(folder: Path, file: str) -> None:
    """Let the manifest list what lies in ``coreml``, with ``file`` as the graph."""
    place = folder / "edgediff.json"
    manifest = json.loads(place.read_text())
    files = {name: record for name, record in manifest["files"].items() if not name.startswith("coreml/")}
    inside = [
        path.relative_to(folder).as_posix() for path in (folder / "coreml").rglob("*") if path.is_file()
    ]
    manifest["files"] = files | {name: {"bytes": 0, "sha256": "0" * 64} for name in inside}
    manifest["components"]["denoiser"]["graphs"][0] |= {"file": file, "weights": inside}
    place.write_text(json.dumps(manifest))
    coreml_packages.sealed(folder)
