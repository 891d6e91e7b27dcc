"""``edgediff export onnx`` and what it writes, as a user meets them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from export_helpers import model_folder, write_safetensors
from family_folders import control_folder, tiny_autoencoder, xl_folder

from edgediff import cli
from edgediff.export.tensors import TensorFiles


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(each) for each in arguments])
    return int(ended.value.code or 0)


def test_export_then_verify_then_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = model_folder(tmp_path / "model"), tmp_path / "bundle"
    assert run("export", "onnx", "-m", model, out, "--recipe", "lightning-4") == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out)
    assert "checking unet" in printed.err
    assert run("verify", out) == 0
    assert "of the golden values" in capsys.readouterr().out
    assert run("verify", out, "--json", "--numerics") == 0
    told = json.loads(capsys.readouterr().out)
    assert {each["role"] for each in told["numerics"]} == {"text_encoder", "denoiser", "decoder", "encoder"}
    assert run("show", out) == 0
    shown = capsys.readouterr().out
    assert "4 steps of euler" in shown
    assert "lightning-4: guidance_scale 0 to 1 (warn), num_inference_steps 4 to 4 (warn)" in shown


def test_a_damaged_graph_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of the right length and another value, listed with their own sha256."""
    import hashlib

    model, out = model_folder(tmp_path / "model"), tmp_path / "bundle"
    assert run("export", "onnx", "-m", model, out, "-q") == 0
    weights = out / "unet" / "model.onnx_data"
    weights.write_bytes(bytes(weights.stat().st_size))
    manifest = json.loads((out / "edgediff.json").read_text(encoding="utf-8"))
    manifest["files"]["unet/model.onnx_data"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (out / "edgediff.json").write_text(json.dumps(manifest), encoding="utf-8")
    capsys.readouterr()
    assert run("verify", out) == 3
    assert "denoiser" in capsys.readouterr().err


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_folder(tmp_path / "model")
    assert run("export", "onnx", "-m", model, tmp_path / "out", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "unet/model.onnx_data" in printed
    assert "MB of memory" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert run("export", "onnx", "-m", model, tmp_path / "out", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dry_run"] and told["bytes"] == sum(told["files"].values())


def test_options_reach_the_exporter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = xl_folder(tmp_path / "model"), tmp_path / "bundle"
    names = TensorFiles([model / "unet" / "diffusion_pytorch_model.safetensors"])
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    rows, columns = names.entries[f"{name}.weight"].shape
    import numpy as np

    adapter = tmp_path / "style.safetensors"
    half = np.ones((2, columns), np.float32), np.ones((rows, 2), np.float32)
    write_safetensors(adapter, {f"unet.{name}.lora_A.weight": half[0], f"unet.{name}.lora_B.weight": half[1]})
    arguments: list[Any] = ["--vae", tiny_autoencoder(tmp_path / "taesd"), "--lora", f"{adapter}:0.5"]
    assert run("export", "onnx", "-m", model, out, "--dtype", "fp16", *arguments, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["precision"] == "fp16" and told["ran"]
    manifest = json.loads((out / "edgediff.json").read_text(encoding="utf-8"))
    assert manifest["origin"]["adapters"] == [{"name": "style.safetensors", "scale": 0.5}]
    assert manifest["model"]["latents"]["scaling_factor"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--recipe", "fast"], 2, "known are lcm"),
        (["--lora", "nowhere.safetensors"], 2, "nowhere.safetensors"),
        (["--vae", "nowhere"], 2, "no such file or folder"),
        (["--lora", "model/unet/diffusion_pytorch_model.safetensors:much"], 2, "is no number"),
        (["--revision", "main"], 2, "has no revision"),
        (["--dtype", "fp8"], 2, "--help"),
        (["--profiles", "ort-cuda"], 2, "portable is always among them"),
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
    assert run("export", "onnx", "-m", "model", "out", *arguments) == status
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not Path("out").exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".safetensors"])
def test_pickles_are_refused_whatever_they_are_called(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "it ran",))

    file = tmp_path / f"model{suffix}"
    file.write_bytes(pickle.dumps(Trap()))
    assert run("export", "onnx", "-m", file, tmp_path / "out") != 0
    assert "safetensors" in capsys.readouterr().err
    assert not (tmp_path / "it ran").exists() and not (tmp_path / "out").exists()


def test_no_tensor_is_stored_twice(tmp_path: Path) -> None:
    """Neither by name nor by place, though the U-Net has two signatures and each graph two forms."""
    import onnx

    model, net = model_folder(tmp_path / "model"), control_folder(tmp_path / "net")
    assert run("export", "onnx", "-m", model, tmp_path / "out", "--controlnet", net, "-q") == 0
    places: dict[tuple[str, str], set[str]] = {}
    graphs = sorted((tmp_path / "out").rglob("*.onnx"))
    assert len(graphs) > 6
    for graph in graphs:
        loaded = onnx.load(str(graph), load_external_data=False)
        for tensor in loaded.graph.initializer:
            about = {pair.key: pair.value for pair in tensor.external_data}
            if about:
                where = (f"{graph.parent.name}/{about['location']}", about["offset"])
                places.setdefault(where, set()).add(tensor.name)
    assert all(len(names) == 1 for names in places.values()), "two tensors share a place"
    names = Counter((where[0], next(iter(name))) for where, name in places.items())
    assert max(names.values()) == 1, "a tensor lies in two places"
    stored = {where[0] for where in places}
    assert stored == {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.onnx_data")}
