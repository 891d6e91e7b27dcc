"""The recorded ControlNet against diffusers' ControlNetModel, alone and in front of a U-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from export_cases import CONTROLS as CASES  # noqa: E402
from export_cases import control  # noqa: E402
from export_helpers import build, difference, run  # noqa: E402
from export_parity import halved, randomise, saved  # noqa: E402
from export_unets import THREE, XL, arguments, random_inputs  # noqa: E402

from edgediff.export.checkpoint import plain_spellings  # noqa: E402
from edgediff.export.emit.sizes import sizes  # noqa: E402
from edgediff.export.networks import controlnet, unet2d_condition  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4


def made(
    config: dict[str, Any], batch: int, size: tuple[int, int]
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A ControlNet with random numbers (a new one is all zero), the graph's inputs, and diffusers'."""
    reference = randomise(diffusers.ControlNetModel(**config))
    inputs = random_inputs(reference.config, batch, size)
    scale = 1 << (len(reference.config.conditioning_embedding_out_channels) - 1)
    shape = (batch, reference.config.conditioning_channels, size[0] * scale, size[1] * scale)
    inputs["controlnet_cond"] = np.random.default_rng(4).uniform(0, 1, shape).astype(np.float32)
    given = arguments(reference.config, inputs)
    inputs["conditioning_scale"] = np.array([0.7], np.float32)
    return reference, inputs, {**given, "conditioning_scale": 0.7}


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, storage: Any, tmp_path: Path) -> None:
    config, batch, size = CASES[name]
    reference, inputs, given = made(config, batch, size)
    tensors, saved_config = saved(reference, tmp_path)
    net = controlnet.configure(saved_config, "config.json")
    graph = controlnet.record(net)
    path = build(graph, tensors, plain_spellings, tmp_path, storage)
    if storage == "fp16":
        halved(reference)
    with torch.no_grad():
        wanted = reference(**given)
    outputs = [f"down_block_res_samples.{i}" for i in range(len(wanted.down_block_res_samples))]
    found = run(path, inputs)
    assert list(found) == [*outputs, "mid_block_res_sample"]
    values = [*wanted.down_block_res_samples, wanted.mid_block_res_sample]
    for key, value in zip(found, values, strict=True):
        assert difference(found[key], value.numpy()) < TOLERANCE
    # The pass over the graph foresees every size.
    given_sizes = {port.name: inputs[port.name].shape[2:] for port in graph.inputs if len(port.extents) == 2}
    foreseen = sizes(graph, {**given_sizes, "encoder_hidden_states": (5,)})
    assert [foreseen[port.value.id] for port in graph.outputs] == [each.shape[2:] for each in found.values()]


@pytest.mark.parametrize("base", [THREE, XL], ids=["SD", "SDXL"])
def test_control_then_unet(base: dict[str, Any], tmp_path: Path) -> None:
    """Both graphs, one after the other, as a pipeline runs them."""
    size = (9, 11)
    reference, inputs, given = made(control(base), 2, size)
    unet = randomise(diffusers.UNet2DConditionModel(**base), seed=1)
    folders = tmp_path / "control", tmp_path / "unet"
    tensors, config = saved(reference, folders[0])
    graph = controlnet.record(controlnet.configure(config, "config.json"))
    residuals = run(build(graph, tensors, plain_spellings, folders[0]), inputs)
    tensors, config = saved(unet, folders[1])
    net = unet2d_condition.configure(config, "config.json")
    graph = unet2d_condition.record(net, controlled=True)
    names = list(unet2d_condition.residual_extents(net, size))
    own = {name: inputs[name] for name in inputs if name not in ("controlnet_cond", "conditioning_scale")}
    fed = {**own, **dict(zip(names, residuals.values(), strict=True))}
    found = run(build(graph, tensors, plain_spellings, folders[1]), fed)["out_sample"]
    with torch.no_grad():
        control_output = reference(**given)
        wanted = unet(
            **arguments(unet.config, own),
            down_block_additional_residuals=control_output.down_block_res_samples,
            mid_block_additional_residual=control_output.mid_block_res_sample,
        ).sample.numpy()
    assert difference(found, wanted) < TOLERANCE
