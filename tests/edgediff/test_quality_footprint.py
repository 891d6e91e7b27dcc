"""What a graph takes, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff import footprint, machine
from edgediff.bundle import Bundle, TensorSpec
from edgediff.errors import CheckFailed, ResourceError, UnsupportedError


def run(*arguments: object) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "edgediff.footprint", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


def test_one_object_is_printed(onnx_bundle: Path) -> None:
    status, told = run(onnx_bundle, "denoiser", "--rounds", "3", "--threads", "1")
    assert status == 0
    assert (told["role"], told["form"], told["provider"]) == ("denoiser", "portable", "CPUExecutionProvider")
    assert len(told["passes_s"]) == 3
    assert all(0 < seconds < 10 for seconds in (told["load_s"], told["first_s"], *told["passes_s"]))
    if sys.platform == "linux":
        assert 10e6 < told["base_rss_bytes"] <= told["peak_rss_bytes"] < 1e9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("denoiser", "--rounds", "0"), "rounds"),
        (("denoiser", "--threads", "0"), "threads"),
        (("vocoder",), "no graph for vocoder"),
        (("denoiser", "--device", "toaster"), "toaster"),
    ],
)
def test_errors_are_told_as_json(onnx_bundle: Path, arguments: tuple[str, ...], said: str) -> None:
    status, told = run(onnx_bundle, *arguments)
    assert status == 1
    assert said in told["error"]


def test_peak_memory_is_that_of_the_process() -> None:
    script = (
        "import numpy as np; from edgediff.machine import peak_rss; a = peak_rss(); x = np.ones(40_000_000); "
        "del x; print(peak_rss() - a)"
    )
    grown = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout)
    assert 300e6 < grown < 340e6  # 320 MB, although they were given back


def test_two_bundles_take_turns(onnx_bundle: Path) -> None:
    one, other = footprint.pair(onnx_bundle, onnx_bundle, "decoder", rounds=4, threads=1)
    for told in (one, other):
        assert told["form"] == "portable"
        assert told["pass_s"]["rounds"] == 4
        assert 0 < told["pass_s"]["min"] <= told["pass_s"]["median"] <= told["pass_s"]["max"]


def test_what_fails_in_the_other_process_is_told(onnx_bundle: Path, fake_bundle: Path) -> None:
    with pytest.raises(CheckFailed, match="no graph for vocoder"):
        footprint.pair(onnx_bundle, onnx_bundle, "vocoder")
    with pytest.raises(CheckFailed, match=r"model\.onnx"):
        footprint.pair(onnx_bundle, fake_bundle, "denoiser")


def test_a_process_that_ends_is_an_error(onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint.sys, "executable", "true" if sys.platform != "win32" else "whoami")
    with pytest.raises((ResourceError, ValueError)):
        footprint.pair(onnx_bundle, onnx_bundle, "denoiser")


def test_inputs_have_the_models_own_size(fake_bundle: Path) -> None:
    bundle = Bundle.open(fake_bundle)  # 32x32 pixels, latents of an eighth, 16 tokens

    def shape(role: str, *dims: str | int, dtype: str = "float32") -> tuple[int, ...]:
        made = footprint.inputs_of(bundle, role, [TensorSpec("x", dtype, dims)])["x"]
        assert made.dtype == np.dtype(dtype)
        return made.shape

    assert shape("denoiser", "batch_size", 4, "height", "width") == (1, 4, 4, 4)
    assert shape("denoiser", "batch_size", 320, "height_4", "width_4") == (1, 320, 1, 1)
    assert shape("denoiser", "batch", "sequence_length", 8) == (1, 16, 8)
    assert shape("denoiser", "batch", "num_channels", "height", "width") == (1, 4, 4, 4)
    assert shape("decoder", "batch_size", 4, "latent_height", "latent_width") == (1, 4, 4, 4)
    assert shape("encoder", "batch_size", 3, "height", "width") == (1, 3, 32, 32)
    assert shape("control", "batch_size", 3, "picture_height", "picture_width") == (1, 3, 32, 32)
    assert shape("text_encoder", "batch_size", "sequence_length", dtype="int64") == (1, 16)
    assert shape("denoiser") == ()
    with pytest.raises(UnsupportedError, match="frames"):
        shape("denoiser", "batch", 4, "frames")


def test_the_card_names_the_machine() -> None:
    card = machine.card()
    assert card["cores"]
    assert isinstance(card["features"], list)
    json.dumps(card)
