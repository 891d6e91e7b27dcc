"""The operations that conditions, ControlNets and the tiny autoencoder need, against their formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import TINY_UNET, Array, build, difference, run, write_safetensors

from edgediff.export.checkpoint import plain_spellings
from edgediff.export.emit.graph import Kind, Value
from edgediff.export.emit.ops import Ops
from edgediff.export.emit.sizes import sizes
from edgediff.export.networks import controlnet, unet2d_condition
from edgediff.export.tensors import TensorFiles

RNG = np.random.default_rng(5)
IMAGE = RNG.standard_normal((2, 4, 3, 5), np.float32)
TOKENS = RNG.standard_normal((2, 6, 4), np.float32)
PAIRS = RNG.standard_normal((2, 8), np.float32)
ONE = RNG.standard_normal((1, 8), np.float32)
SIZES = np.array([[0, 64, 1023], [5.5, 300, 1]], np.float32)
NUMBER = np.array([0.3], np.float32)
LABELS = np.array([4, 0, 2], np.int64)
TABLE = RNG.standard_normal((5, 3), np.float32)


def declared(ops: Ops, name: str, value: Array) -> Value:
    """The input that an array of this shape belongs to."""
    if value is NUMBER:
        return ops.input(name, Kind.TIME)
    if value is LABELS:
        return ops.input(name, Kind.LABEL)
    if value.ndim == 4:
        return ops.input(name, Kind.IMAGE, value.shape[1], "height", "width")
    if value.ndim == 3:
        return ops.input(name, Kind.TOKENS, value.shape[2], "length")
    return ops.input(name, Kind.VECTOR, value.shape[1])


def waves(cosine_first: bool, shift: float) -> Array:
    """Six sinusoids for each of three numbers."""
    angles = SIZES[..., None].astype(float) * 10000.0 ** (-np.arange(3) / (3 - shift))
    parts = [np.cos(angles), np.sin(angles)]
    return np.concatenate(parts if cosine_first else parts[::-1], axis=-1).reshape(2, 18)


CASES: dict[str, tuple[list[Array], Callable[..., Value], Array]] = {
    "relu": ([IMAGE], Ops.relu, np.maximum(IMAGE, 0)),
    "tanh": ([IMAGE], Ops.tanh, np.tanh(IMAGE)),
    "scale a picture": ([IMAGE, NUMBER], Ops.scale, IMAGE * np.float32(0.3)),
    "scale a vector": ([PAIRS, NUMBER], Ops.scale, PAIRS * np.float32(0.3)),
    "modulate a picture": (
        [IMAGE, PAIRS],
        Ops.modulate,
        IMAGE * (1 + PAIRS[:, :4, None, None]) + PAIRS[:, 4:, None, None],
    ),
    "modulate tokens, one vector for the batch": (
        [TOKENS, ONE],
        Ops.modulate,
        TOKENS * (1 + ONE[:, None, :4]) + ONE[:, None, 4:],
    ),
    "reverse": ([IMAGE], Ops.reverse, IMAGE[:, ::-1]),
    "repeat": ([ONE, PAIRS], Ops.repeat_like, np.repeat(ONE, 2, axis=0)),
    "repeat what is there": ([PAIRS, PAIRS], Ops.repeat_like, PAIRS),
    "waves of a vector": ([SIZES], lambda o, x: o.timestep_embedding(x, 6, True, 0), waves(True, 0)),
    "waves, shifted": ([SIZES], lambda o, x: o.timestep_embedding(x, 6, False, 1), waves(False, 1)),
    "rows for labels": ([LABELS], lambda o, x: o.embedding(x, "table", 5, 3), TABLE[LABELS]),
}


@pytest.mark.parametrize("name", CASES)
def test_operations(name: str, tmp_path: Path) -> None:
    arrays, operation, wanted = CASES[name]
    ops = Ops("net")
    inputs = {f"input_{i}": array for i, array in enumerate(arrays)}
    result = operation(ops, *(declared(ops, key, array) for key, array in inputs.items()))
    extents = {Kind.IMAGE: ("height", "width"), Kind.TOKENS: ("length",)}.get(result.kind, ())
    ops.output("result", result, *extents)
    graph = ops.graph()
    tensors = TensorFiles([])
    if graph.parameters:
        write_safetensors(tmp_path / "x.safetensors", {"table.weight": TABLE})
        tensors = TensorFiles([tmp_path / "x.safetensors"])
    found = run(build(graph, tensors, plain_spellings, tmp_path), inputs)["result"]
    # Sines are of angles up to 1e3, in float32.
    tolerance = 2e-4 if "waves" in name else 1e-6
    assert difference(found, wanted.astype(np.float32)) < tolerance


def test_a_modulation_has_a_scale_and_a_shift_for_each_channel() -> None:
    ops = Ops("net")
    image, vector = declared(ops, "image", IMAGE), ops.input("vector", Kind.VECTOR, 6)
    with pytest.raises(ValueError, match="6 channels modulate 4"):
        ops.modulate(image, vector)


CONTROLLED: dict[str, dict[str, Any]] = {
    "tiny": {},
    "asymmetric": {"downsample_padding": 0},
    "three levels": {
        "block_out_channels": [8, 16, 16],
        "down_block_types": ["DownBlock2D"] * 3,
        "up_block_types": ["UpBlock2D"] * 3,
        "layers_per_block": 2,
    },
}


@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
@pytest.mark.parametrize("name", CONTROLLED)
def test_residuals_fit_the_unet_that_takes_them(name: str, size: tuple[int, int]) -> None:
    """What a ControlNet gives has the channels and the sizes that its U-Net asks for, in the same order."""
    config = {**TINY_UNET, **CONTROLLED[name]}
    net = unet2d_condition.configure(config, "unet")
    graph = unet2d_condition.record(net, controlled=True)
    asked = unet2d_condition.residual_extents(net, size)
    ports = {port.name: port.value.channels for port in graph.inputs if port.name in asked}
    assert list(ports) == list(asked)
    kept = {key: value for key, value in config.items() if key != "up_block_types"}
    control = controlnet.configure(kept, "controlnet")
    side = control.downscale
    made = controlnet.record(control)
    known = sizes(
        made,
        {
            "sample": size,
            "controlnet_cond": (side * size[0], side * size[1]),
            "encoder_hidden_states": (7,),
        },
    )
    given = [(port.value.channels, known[port.value.id]) for port in made.outputs]
    assert given == [(ports[each], asked[each]) for each in asked]
