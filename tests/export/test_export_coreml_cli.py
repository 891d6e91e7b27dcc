"""``edgediff export coreml`` as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest
from coreml_folders import manifest, ports, specs
from export_helpers import model_folder
from family_folders import change

from edgediff import cli
from edgediff.cli.export import coreml
from edgediff.export.coreml.options import ATTENTIONS, LAYOUTS, TARGETS, Packing
from edgediff.export.coreml.schemes import NAMES

pytestmark = pytest.mark.slow


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(each) for each in arguments])
    return int(ended.value.code or 0)


def test_export_then_verify_then_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = model_folder(tmp_path / "model"), tmp_path / "bundle"
    assert run("export", "coreml", "-m", model, out, "--size", "16x24", "--no-receipt") == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out)
    assert "writing coreml/Unet.mlpackage" in printed.err
    assert run("verify", out, "--runtime", "mil") == 0
    assert "of the golden values" in capsys.readouterr().out
    drawn = tmp_path / "a.png"
    assert run("run", "a b", "-m", out, "--runtime", "mil", "--steps", "2", "-o", drawn) == 0
    assert "24x16" in capsys.readouterr().err
    assert drawn.is_file()


def test_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = model_folder(tmp_path / "model"), tmp_path / "bundle"
    arguments = ["--attention", "original", "--quantize", "palette-8", "--json"]
    assert run("export", "coreml", "-m", model, out, *arguments) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert (
        told["precision"] == "palette-8" and told["quality"]["components"]["denoiser"]["form"] == "original"
    )
    assert manifest(out)["quality"] == told["quality"]
    assert not printed.err


def test_apple_resources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = model_folder(tmp_path / "model"), tmp_path / "Resources"
    arguments = ["--layout", "apple", "--no-receipt", "-q"]
    assert run("export", "coreml", "-m", model, out, *arguments) == 5
    refused = capsys.readouterr().err
    assert "scaled_linear" in refused and "--force" in refused and refused.count("\n") == 1
    assert run("export", "coreml", "-m", model, out, *arguments, "--force") == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert ports(specs(out)["TextEncoder"])["input_ids"][0] == "float32"


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_folder(tmp_path / "model")
    assert run("export", "coreml", "-m", model, tmp_path / "out", "--dry-run", "--chunk") == 0
    printed = capsys.readouterr().out
    assert "coreml/UnetChunk1.mlpackage" in printed and "MB of memory" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--size", "large"], 2, "height and width"),
        (["--size", "16x15"], 2, "multiples of 2"),
        (["--quantize", "palette-7"], 2, "palette-6"),
        (["--quantize", "palette-3"], 5, "--target iOS18"),
        (["--group-size", "8"], 2, "only with quantize"),
        (["--recipe", "fast"], 2, "known are lcm"),
        (["--vae", "nowhere"], 2, "no such file or folder"),
    ],
)
def test_wrong_options(
    arguments: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model_folder(Path("model"))
    assert run("export", "coreml", "-m", "model", "out", *arguments) == status
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not Path("out").exists()


def test_models_of_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_folder(tmp_path / "model")
    change(model / "model_index.json", _class_name="FluxPipeline")
    assert run("export", "coreml", "-m", model, tmp_path / "out") == 5
    assert "covered are StableDiffusionPipeline" in capsys.readouterr().err


def test_without_coremltools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    assert run("export", "coreml", "-m", model_folder(tmp_path / "model"), tmp_path / "out") == 5
    assert "edgediff[coreml]" in capsys.readouterr().err


def test_the_command_offers_what_the_exporter_knows() -> None:
    options = {each.name: each for each in coreml.params if isinstance(each, click.Option)}

    def offered(name: str) -> list[str]:
        kind = options[name].type
        assert isinstance(kind, click.Choice)
        return sorted(kind.choices)

    assert offered("quantize") == sorted(NAMES)
    assert offered("layout") == sorted(LAYOUTS) and offered("target") == sorted(TARGETS)
    assert offered("attention") == sorted(each.replace("_", "-") for each in ATTENTIONS)
    elsewhere = {"receipt": "no_receipt", "verify": None}
    for name in Packing.__annotations__:
        assert elsewhere.get(name, name) in {*options, None}
