"""Graphs loaded for the sizes of a call, and again for others, by a runtime that says what it was told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff import fixing
from edgediff.bundle import Bundle, GraphSpec, TensorSpec
from edgediff.errors import InputError
from edgediff.parts import Parts
from edgediff.roles import parse_precision
from edgediff.runtimes.onnxruntime import OnnxRuntime


@pytest.fixture
def bundle(onnx_bundle: Path) -> Bundle:
    return Bundle.open(onnx_bundle)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Options of each load; the CPU takes the part of a device that compiles for sizes."""
    seen: list[dict[str, Any]] = []
    original = OnnxRuntime.load

    def load(self: Any, spec: Any, file: Any, device: str, options: Mapping[str, Any], constants: Any) -> Any:
        seen.append(dict(options))
        return original(self, spec, file, device, options, constants)

    monkeypatch.setattr(OnnxRuntime, "load", load)
    monkeypatch.setattr(OnnxRuntime, "fixes", ("cpu",))
    return seen


def decoder(bundle: Bundle) -> str:
    return bundle.graph("decoder").inputs[0].name


def feed(bundle: Bundle, height: int, width: int, batch: int = 1) -> dict[str, Any]:
    channels = bundle.latents.channels
    return {decoder(bundle): np.zeros((batch, channels, height, width), np.float32)}


def test_extents_come_from_the_size_of_the_call(bundle: Bundle) -> None:
    spec = bundle.graph("decoder")
    factor = bundle.latents.downscale["height"]
    found = fixing.expected(bundle, "decoder", spec, {"height": 5 * factor, "width": 3 * factor})
    batch, _, height, width = spec.inputs[0].dims
    assert {name: found[str(name)] for name in (batch, height, width)} == {batch: 1, height: 5, width: 3}
    assert fixing.expected(bundle, "decoder", replace(spec, inputs=()), {"height": 8, "width": 8}) == {}


def test_an_open_text_stays_open(bundle: Bundle) -> None:
    spec = GraphSpec(
        "onnxruntime", "portable", "x", "fp32",
        (TensorSpec("encoder_hidden_states", "float32", ("batch", "tokens", 8)),),
    )  # fmt: skip
    assert bundle.text is not None
    assert fixing.expected(bundle, "denoiser", spec, {}) == {"batch": 1, "tokens": bundle.text.length}
    assert fixing.expected(bundle, "denoiser", spec, {}, tokens=False) == {"batch": 1}


def test_a_graph_is_loaded_again_for_another_size(bundle: Bundle, loads: list[dict[str, Any]]) -> None:
    free = Parts(bundle, "cpu", options={"threads": 1, "extents": {}})
    parts = Parts(bundle, "cpu", options={"threads": 1})
    factor = bundle.latents.downscale["height"]
    parts.expect({"height": 4 * factor, "width": 4 * factor})
    for height, width, batch in ((4, 4, 1), (4, 4, 3), (4, 2, 1), (4, 2, 2)):
        given = feed(bundle, height, width, batch)
        ours, right = parts.run("decoder", given), free.run("decoder", given)
        assert all(np.array_equal(ours[name], right[name]) for name in right)
    names = bundle.graph("decoder").inputs[0].dims
    sizes = [each["extents"] for each in loads if each["extents"]]
    assert [(each[str(names[2])], each[str(names[3])]) for each in sizes] == [(4, 4), (4, 2)]


def test_sizes_that_keep_changing_are_left_open(bundle: Bundle, loads: list[dict[str, Any]]) -> None:
    parts = Parts(bundle, "cpu", options={"threads": 1})
    factor = bundle.latents.downscale["height"]
    parts.expect({"height": 4 * factor, "width": 4 * factor})
    for side in (4, 3, 2, 3, 4, 5):
        parts.run("decoder", feed(bundle, side, side))
    assert len(loads) == 3
    assert loads[-1]["extents"] == {}


def test_precision_by_part() -> None:
    assert parse_precision(None) == {}
    assert parse_precision("bf16") == {"": "bf16"}
    assert parse_precision("denoiser=bf16, decoder=fp32") == {"denoiser": "bf16", "decoder": "fp32"}
    for wrong in ("fp8", "denoiser=", "nothing=bf16", "bf16,bf16", ""):
        with pytest.raises(InputError, match="precision"):
            parse_precision(wrong)


def test_a_precision_that_the_device_lacks_is_an_error(bundle: Bundle) -> None:
    parts = Parts(bundle, "cpu", options={"threads": 1}, precision="decoder=bf16")
    parts.graph("denoiser")
    with pytest.raises(InputError, match="take the device openvino"):
        parts.graph("decoder")
